"""MODEL_PROFILES_FILE: the user's own models, workload and incidents, from a TOML or YAML file.

```toml
[workload]                         # fields that are left out keep their defaults
arrival_cv = 1.5
output_lengths = { log_median = 5.5 }

[models."Llama-3.1-70B"]           # changes a built-in model: any fields
rho = 0.6

[models.ours]                      # adds a model: needs at least these five fields
ttft_ref = 0.5
tps_ref = 90
cap = 12
rho = 0.4
batch_limit = 128

[[incidents]]                      # on given dates, in addition to the random ones
model = "ours"
start = 2026-03-02T09:00:00Z
end = 2026-03-02T11:30:00Z
capacity_factor = 0.4
```

The fields, their units and ranges are those of `Workload`, `TokenLengths`, `Profile` and
`Incident`.
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from sim_pipeline.simulator.arguments import Range, field_ranges
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import (
    MODELS,
    Incident,
    Profile,
    Workload,
    profile_for,
)

REQUIRED_FIELDS = frozenset(
    field.name for field in fields(Profile) if field.default is MISSING and field.name != "name"
)
"""The fields that a model needs if it is not built in."""

_INCIDENT_FIELDS = ("model", "start", "end", "capacity_factor")
_TYPE_NAMES: dict[type, str] = {str: "a string", bool: "true or false"}
# Both formats have a type for times; a string with an offset is accepted as well.
_TIME = TypeAdapter(AwareDatetime)


class ProfilesFileError(ValueError):
    """The file cannot be read or has invalid content; the message names every problem."""


def read_profiles(path: Path | None, models: Sequence[str]) -> dict[str, Profile]:
    """Return the profile of each of ``models``, by name.

    A profile comes from the file, else from the built-in models, else from the model's name. The
    file's workload applies to all of them.

    Args:
        path: a file that ends in .toml, .yaml or .yml; None means an empty file.
        models: names of the models to simulate. The file may define more.

    Raises:
        ProfilesFileError: the file cannot be read or has an invalid field. The message names the
            file and every invalid field, its value and what is allowed.
        ValueError: a name in ``models`` is not 1 to 50 characters long.
    """
    if path is None:
        return {name: profile_for(name) for name in models}
    return profiles_from(_parse(path), models, str(path), source=f"from {path.name}")


def profiles_from(
    content: object, models: Sequence[str], where: str, *, source: str = ""
) -> dict[str, Profile]:
    """Return the profile of each of ``models``, by name, as `read_profiles` does.

    Args:
        content: the parsed content of a profiles file.
        models: names of the models to simulate. The content may define more.
        where: name of the content in error messages.
        source: `Profile.source` of the profiles that the content changes; ``where`` by default.

    Raises:
        ProfilesFileError: the content has an invalid field. The message names every invalid field,
            its value and what is allowed.
        ValueError: a name in ``models`` is not 1 to 50 characters long.
    """
    reader = _Reader(source or where)
    profiles = reader.read(content, models)
    if reader.problems:
        raise ProfilesFileError(f"{where}:\n  " + "\n  ".join(reader.problems))
    return profiles


def _parse(path: Path) -> object:
    if path.suffix not in {".toml", ".yaml", ".yml"}:
        raise ProfilesFileError(f"{path}: the name must end in .toml, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ProfilesFileError(f"{path}: cannot be read: {error}") from error
    return {} if content is None else content


class _Reader:
    """Reads the content of a file and collects its problems, so that one error can name them all.

    Args:
        source: `Profile.source` of the profiles that the file changes.
    """

    def __init__(self, source: str) -> None:
        self.problems: list[str] = []
        self._source = source

    def read(self, content: object, models: Sequence[str]) -> dict[str, Profile]:
        """Return the profiles of ``models``, without those that have problems."""
        file = self._table(content, "the file") or {}
        self._check_names(file, ("workload", "models", "incidents"))
        workload = self._workload(file.get("workload", {}))
        tables = self._table(file.get("models", {}), "models") or {}
        known = dict.fromkeys([*models, *tables])
        incidents = self._incidents(file.get("incidents", []), {*known, *MODELS})
        profiles = {
            name: self._profile(name, tables, workload, incidents.get(name, ())) for name in known
        }
        return {name: profile for name in models if (profile := profiles[name])}

    def _table(self, content: object, where: str) -> dict[str, Any] | None:
        """Return the content if it is a table; otherwise note a problem and return None."""
        if not isinstance(content, dict):
            self.problems.append(f"{where} is {content!r}: must be a table of names and values")
            return None
        self.problems += [
            f"{where}.{name}: the name must be a string; put it in quotes"
            for name in content
            if not isinstance(name, str)
        ]
        return {name: value for name, value in content.items() if isinstance(name, str)}

    def _check_names(
        self, table: Mapping[str, Any], known: Collection[str], prefix: str = ""
    ) -> None:
        self.problems += [
            f"{prefix}{name} is not a field of this table" for name in table if name not in known
        ]

    def _fields(self, kind: type, content: object, where: str) -> dict[str, Any] | None:
        """Return a table's values for the plain fields of a dataclass; None if there is a problem.

        Plain fields are numbers with a range, texts and flags.
        """
        count = len(self.problems)
        table = self._table(content, where)
        if table is None:
            return None
        allowed: dict[str, Range | str] = {
            name: _TYPE_NAMES[hint]
            for name, hint in get_type_hints(kind).items()
            if hint in _TYPE_NAMES and name != "name"
        }
        allowed |= field_ranges(kind)
        self._check_names(table, allowed, f"{where}.")
        self.problems += [
            f"{where}.{name} is {table[name]!r}: must be {values}"
            for name, values in allowed.items()
            if name in table and not _allows(values, table[name])
        ]
        return table if len(self.problems) == count else None

    def _workload(self, content: object) -> Workload:
        usual = Workload()
        table = self._table(content, "workload") or {}
        lengths = {
            name: self._fields(TokenLengths, table[name], f"workload.{name}")
            for name in ("input_lengths", "output_lengths")
            if name in table
        }
        plain = {name: value for name, value in table.items() if name not in lengths}
        given = self._fields(Workload, plain, "workload")
        if given is None or None in lengths.values():
            return usual
        try:
            changed = {
                name: replace(getattr(usual, name), **changes or {})
                for name, changes in lengths.items()
            }
            return replace(usual, **given, **changed)
        except ValueError as error:
            self.problems.append(f"workload: {error}")
            return usual

    def _incidents(
        self, contents: object, known: Collection[str]
    ) -> dict[str, tuple[Incident, ...]]:
        if not isinstance(contents, list):
            self.problems.append(f"incidents is {contents!r}: must be a list of tables")
            return {}
        incidents: dict[str, tuple[Incident, ...]] = {}
        for number, content in enumerate(contents):
            where = f"incidents.{number}"
            table = self._table(content, where)
            if table is not None and (incident := self._incident(table, where, known)):
                model = table["model"]
                incidents[model] = (*incidents.get(model, ()), incident)
        return incidents

    def _incident(
        self, table: Mapping[str, Any], where: str, known: Collection[str]
    ) -> Incident | None:
        count = len(self.problems)
        self._check_names(table, _INCIDENT_FIELDS, f"{where}.")
        self.problems += [
            f"{where}.{name} is missing" for name in _INCIDENT_FIELDS if name not in table
        ]
        model, factor = table.get("model"), table.get("capacity_factor")
        if "model" in table and not (isinstance(model, str) and model in known):
            self.problems.append(
                f"{where}.model is {model!r}: must be one of {', '.join(sorted(known))}"
            )
        allowed = field_ranges(Incident)["capacity_factor"]
        if "capacity_factor" in table and not allowed.allows(factor):
            self.problems.append(f"{where}.capacity_factor is {factor!r}: must be {allowed}")
        times = [
            self._time(table[name], f"{where}.{name}") for name in ("start", "end") if name in table
        ]
        if len(self.problems) > count:
            return None
        start, end = (time for time in times if time)
        if end <= start:
            self.problems.append(f"{where}.end is {end}: must be after start, {start}")
            return None
        return Incident(start.timestamp(), end.timestamp(), table["capacity_factor"])

    def _time(self, value: object, where: str) -> datetime | None:
        try:
            return _TIME.validate_python(value)
        except ValidationError:
            self.problems.append(
                f"{where} is {value}: must be a time with an offset from UTC, or Z, such as"
                " 2026-03-02T09:00:00Z"
            )
            return None

    def _profile(
        self,
        name: str,
        tables: Mapping[str, object],
        workload: Workload,
        incidents: tuple[Incident, ...],
    ) -> Profile | None:
        where = f"models.{name}"
        base = MODELS.get(name) if name in tables else profile_for(name)
        given: dict[str, Any] = {}
        if name in tables:
            table = self._fields(Profile, tables[name], where)
            if table is None:
                return None
            given = {"source": self._source, **table}
        missing = sorted(REQUIRED_FIELDS - given.keys()) if base is None else []
        if missing:
            self.problems.append(f"{where} needs {', '.join(missing)}: it is not built in")
            return None
        given |= {"workload": workload, "incidents": incidents}
        try:
            return Profile(name, **given) if base is None else replace(base, **given)
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return None


def _allows(allowed: Range | str, value: object) -> bool:
    if isinstance(allowed, Range):
        return allowed.allows(value)
    return _TYPE_NAMES.get(type(value)) == allowed
