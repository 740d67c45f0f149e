"""A fitted profile as a file of profiles in TOML, with comments on where its numbers come from."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from datetime import date
from typing import Any

from sim_pipeline.fit.solve import Fit

# The fields that every file has, in this order.
_FIRST = ("measured", "source", "ttft_ref", "tps_ref", "cap", "rho", "batch_limit")


def to_toml(fit: Fit) -> str:
    """Return the content of a file that `read_profiles` reads as the fitted profile."""
    profile = fit.profile
    comments = [
        "A model profile in the format of MODEL_PROFILES_FILE, by `python -m sim_pipeline fit`.",
        "Measured:",
        *(f"- {line}" for line in load_lines(fit)),
        *(["Notes:", *(f"- {note}" for note in fit.notes)] if fit.notes else []),
        f"Measured and simulated quantiles are compared {comparison(fit)}.",
        "Fields without a comment have their default in docs/profiles.md.",
    ]
    lines = [f"# {_printable(comment)}" for comment in comments]
    lines += ["", f"[models.{_string(profile.name)}]"]
    values = _changed(profile)
    values["source"] = f"fitted to {_tools(fit)}"
    workload, thinking = values.pop("workload", {}), values.pop("thinking", {})
    names = [*_FIRST, *(name for name in values if name not in (*_FIRST, "name"))]
    lines += [_line(fit, name, values.get(name, getattr(profile, name))) for name in names]
    for table, content in (("thinking", thinking), ("workload", workload)):
        if content:
            comment = [f"# {_comment(fit, table)}"] if _comment(fit, table) else []
            lines += ["", *comment, f"[models.{_string(profile.name)}.{table}]"]
            lines += [_line(fit, name, value, f"{table}.") for name, value in content.items()]
    return "\n".join(lines) + "\n"


def load_lines(fit: Fit) -> Iterator[str]:
    """Yield a line on each load: file, tool, and what was measured."""
    for load in fit.loads:
        point = load.point
        parts = [" ".join(filter(None, (point.tool, point.version)))]
        if point.completed is not None:
            parts.append(f"{point.completed} requests")
        if load.rate is not None:
            parts.append(f"{load.rate:.4g} requests/s")
        if load.decoding is not None:
            parts.append(f"{load.decoding:.3g} decoding at once")
        yield f"{point.source}: {', '.join(parts)}"


def comparison(fit: Fit) -> str:
    """Return how the measured and the simulated quantiles are compared."""
    if not fit.steady:
        return "over 72 hours in the 30 days up to `measured`"
    return "at a steady load" if len(fit.loads) == 1 else "at each load, kept steady"


def _tools(fit: Fit) -> str:
    return ", ".join(dict.fromkeys(load.point.tool for load in fit.loads))


def _changed(record: Any) -> dict[str, Any]:
    """Return the fields that differ from their defaults; tables as dictionaries."""
    values: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.default is not MISSING and value == field.default:
            continue
        values[field.name] = _changed(value) if is_dataclass(value) else value
    return values


def _line(fit: Fit, name: str, value: object, prefix: str = "") -> str:
    comment = _comment(fit, prefix + name)
    return f"{name} = {_value(value)}" + (f"  # {comment}" if comment else "")


def _comment(fit: Fit, name: str) -> str:
    if name in fit.fitted:
        return f"fitted: {fit.fitted[name]}"
    return f"assumed: {fit.assumed[name]}" if name in fit.assumed else ""


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return value.isoformat()
    return f"{value:.6g}" if isinstance(value, float) else _string(value)


def _string(value: object) -> str:
    # JSON's strings are TOML's, but for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
