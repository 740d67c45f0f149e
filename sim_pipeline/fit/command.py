"""The command `fit`: reads files, fits a profile, writes it with a plot, and prints the errors."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from sim_pipeline.fit.loads import MEAN
from sim_pipeline.fit.measurement import MeasurementError
from sim_pipeline.fit.plot import save_plot
from sim_pipeline.fit.profile_file import comparison, load_lines, to_toml
from sim_pipeline.fit.reading import read_measurements
from sim_pipeline.fit.solve import Fit, fit_profile

_NAMES = {"ttft": ("TTFT", "s"), "tps": ("TPS", "tokens/s")}


def run_fit(
    paths: Sequence[Path],
    *,
    name: str,
    output: Path | None,
    batch_limit: int | None,
    seed: int,
    force: bool,
) -> str:
    """Fit a profile to files of benchmark tools, and write it.

    Args:
        paths: the files.
        name: the model's name.
        output: the file to write; by default the name with .toml, here. The plot is beside it.
        batch_limit: requests that can decode at once, if known.
        seed: of the simulated requests.
        force: whether to replace existing files.

    Returns:
        The report to print.

    Raises:
        MeasurementError: a file cannot be used, or the profile cannot be written; one line.
    """
    output = output or Path(name.replace("/", "-").replace("\\", "-") + ".toml")
    if output.suffix != ".toml":
        raise MeasurementError(f"--output is {output}: must end in .toml")
    plot = output.with_suffix(".png")
    for path in (output, plot):
        if path.exists() and not force:
            raise MeasurementError(
                f"{path} exists: give another --output, or --force to replace it"
            )
    points = read_measurements(paths)
    fit = fit_profile(
        points, name=name, measured=_last_change(paths), batch_limit=batch_limit, seed=seed
    )
    content = to_toml(fit)
    try:
        output.write_text(content, encoding="utf-8")
        save_plot(fit, plot)
    except OSError as error:
        raise MeasurementError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return "\n".join(_report(fit, output, plot))


def _last_change(paths: Sequence[Path]) -> date:
    newest = max(path.stat().st_mtime for path in paths)
    return datetime.fromtimestamp(newest, UTC).date()


def _report(fit: Fit, output: Path, plot: Path) -> Iterator[str]:
    yield f"Measured and simulated {comparison(fit)}:"
    lines = list(load_lines(fit))
    for index, line in enumerate(lines):
        quantiles = [quantile for quantile in fit.quantiles if quantile.load == index]
        yield f"\n{line}"
        if not quantiles:
            yield "  saturated: only its time between tokens is used"
            continue
        yield f"  {'':18}{'measured':>11}{'simulated':>11}{'difference':>12}"
        for one in quantiles:
            metric, unit = _NAMES[one.metric]
            level = "mean" if one.level == MEAN else f"p{100 * one.level:02.0f}"
            label = f"{metric} {level} [{unit}]"
            yield f"  {label:18}{one.measured:11.4g}{one.simulated:11.4g}{one.error:+12.1%}"
    for title, remarks in (
        ("Fitted:", [f"{field}: {source}" for field, source in fit.fitted.items()]),
        ("Assumed:", [f"{field}: {reason}" for field, reason in fit.assumed.items()]),
        ("Notes:", fit.notes),
    ):
        if remarks:
            yield f"\n{title}"
            yield from (f"  {remark}" for remark in remarks)
    name = fit.profile.name
    yield f"\nWrote {output} and {plot}. To simulate the model, in .env:"
    yield f"  MODEL_PROFILES_FILE={output.resolve()}"
    yield f"  LLM_MODELS_STR=...,{name}"
    yield f'Restart the service, then run: make backfill MODELS="{name}"'
    yield f"To see its numbers first, run the job what_if with profiles_file: {output.resolve()}"
