"""MODEL_PROFILES_FILE: a user's own models, workload and incidents, from a TOML or YAML file.

```toml
[workload]                         # what is left out stays as it is built in
arrival_cv = 1.5
output_lengths = { log_median = 5.5 }

[models."Llama-3.1-70B"]           # changes a built-in model: any fields
rho = 0.6

[models.ours]                      # adds a model: these five fields and any others
ttft_ref = 0.5
tps_ref = 90
cap = 12
rho = 0.4
batch_limit = 128

[[incidents]]                      # on given dates, on top of the random ones
model = "ours"
start = 2026-03-02T09:00:00Z
end = 2026-03-02T11:30:00Z
capacity_factor = 0.4
```

The fields are those of `Workload`, `TokenLengths`, `Profile` and `Incident`, with their units.
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from sim_pipeline.simulator.arguments import Range
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import (
    MODELS,
    Incident,
    Profile,
    Workload,
    profile_for,
)

NEEDED = frozenset({"ttft_ref", "tps_ref", "cap", "rho", "batch_limit"})
"""What a model that is not built in cannot do without."""


class ProfilesFileError(ValueError):
    """The file cannot be read, or holds what is not allowed; the message names all of it."""


class _Table(BaseModel):
    """A table of the file: known fields only, the numbers in the simulator's own ranges."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ranges: ClassVar[Mapping[str, Range]] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _in_range(cls, value: object, info: ValidationInfo) -> object:
        allowed = cls.ranges.get(info.field_name or "")
        if allowed is not None and not allowed.allows(value):
            raise ValueError(f"must be {allowed}")
        return value

    def given(self) -> dict[str, Any]:
        """Return the plain fields that the file gives."""
        return self.model_dump(exclude_unset=True, exclude={"input_lengths", "output_lengths"})


class _Lengths(_Table):
    ranges = TokenLengths.RANGES

    log_median: float = 0.0
    log_sd: float = 0.0
    minimum: int = 0
    maximum: int = 0


class _Workload(_Table):
    ranges = Workload.RANGES

    input_lengths: _Lengths = _Lengths()
    output_lengths: _Lengths = _Lengths()
    arrival_cv: float = 0.0
    peak_hour: float = 0.0
    daily_amplitude: float = 0.0
    half_daily_amplitude: float = 0.0
    weekend_factor: float = 0.0
    drift_sd: float = 0.0


class _Model(_Table):
    ranges = Profile.RANGES

    ttft_ref: float = 0.0
    tps_ref: float = 0.0
    cap: float = 0.0
    rho: float = 0.0
    batch_limit: int = 0
    source: str = ""
    random_incidents: bool = True
    prefill_share: float = 0.0
    ttft_jitter: float = 0.0
    itl_jitter: float = 0.0
    failure_rate: float = 0.0
    slow_share: float = 0.0
    slow_median: float = 0.0
    slow_log_sd: float = 0.0


class _Incident(_Table):
    ranges: ClassVar[Mapping[str, Range]] = {
        "capacity_factor": Incident.RANGES["capacity_factor"],
    }

    model: str
    # Both formats have a type for instants; a string with an offset will do as well.
    start: Annotated[AwareDatetime, Field(strict=False)]
    end: Annotated[AwareDatetime, Field(strict=False)]
    capacity_factor: float


class _File(_Table):
    """The file's first level. What is inside is validated table by table, to find all faults."""

    workload: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    incidents: list[dict[str, Any]] = []


Table = TypeVar("Table", bound=_Table)


def read_profiles(path: Path | None, models: Sequence[str]) -> dict[str, Profile]:
    """Return the profile of each of ``models``, by name.

    It is the file's, else the built-in one, else derived from the name; the file's workload holds
    for all of them.

    Args:
        path: a file that ends in .toml, .yaml or .yml; None stands for an empty one.
        models: names of the models to simulate. The file may know more.

    Raises:
        ProfilesFileError: if the file cannot be read or has a bad field. The message names the
            file and every bad field, its value and what is allowed.
        ValueError: if a name of ``models`` is not 1 to 50 characters long.
    """
    if path is None:
        return {name: profile_for(name) for name in models}
    return profiles_from(_parse(path), models, str(path), source=f"from {path.name}")


def profiles_from(
    content: object, models: Sequence[str], where: str, *, source: str = ""
) -> dict[str, Profile]:
    """Return the profile of each of ``models``, by name, as `read_profiles` does.

    Args:
        content: what a file would hold, parsed.
        models: names of the models to simulate. The content may know more.
        where: what to call it in errors.
        source: what the profiles that it changes have as their source; by default ``where``.

    Raises:
        ProfilesFileError: if it has a bad field. The message names every one, its value and what
            is allowed.
        ValueError: if a name of ``models`` is not 1 to 50 characters long.
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


def _said(fault: ErrorDetails) -> str:
    """Say what is wrong with a field."""
    match fault["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not a field of this table"
        case "timezone_aware":
            return f"is {fault['input']}: must have an offset from UTC, or Z"
        case _:
            allowed = fault.get("ctx", {}).get("error", fault["msg"])
            return f"is {fault['input']!r}: {allowed}"


class _Reader:
    """Reads a file's content and gathers what is wrong with it, so that all can be named at once.

    Args:
        source: what the profiles of the file have as their source.
    """

    def __init__(self, source: str) -> None:
        self.problems: list[str] = []
        self._source = source

    def read(self, content: object, models: Sequence[str]) -> dict[str, Profile]:
        """Return the profiles of ``models``; without those that have problems."""
        file = self._file(content)
        workload = self._workload(file.workload)
        known = dict.fromkeys([*models, *file.models])
        incidents = self._incidents(file.incidents, {*known, *MODELS})
        profiles = {
            name: self._profile(name, file.models.get(name), workload, incidents.get(name, ()))
            for name in known
        }
        return {name: profile for name in models if (profile := profiles[name])}

    def _file(self, content: object) -> _File:
        if not isinstance(content, dict):
            return self._table(_File, content, "") or _File()
        # Table by table: one that is wrong as a whole shall not hide the others.
        parts = ({name: value} for name, value in content.items())
        sound = [part for part in parts if self._table(_File, part, "")]
        return _File.model_validate({name: part[name] for part in sound for name in part})

    def _table(self, kind: type[Table], content: object, where: str) -> Table | None:
        try:
            return kind.model_validate(content)
        except ValidationError as error:
            for fault in error.errors():
                name = ".".join(str(part) for part in (where, *fault["loc"]) if part != "")
                self.problems.append(f"{name or 'the file'} {_said(fault)}")
            return None

    def _workload(self, content: Mapping[str, Any]) -> Workload:
        usual = Workload()
        table = self._table(_Workload, content, "workload")
        if table is None:
            return usual
        try:
            return replace(
                usual,
                input_lengths=replace(usual.input_lengths, **table.input_lengths.given()),
                output_lengths=replace(usual.output_lengths, **table.output_lengths.given()),
                **table.given(),
            )
        except ValueError as error:
            self.problems.append(f"workload: {error}")
            return usual

    def _incidents(
        self, contents: Sequence[Mapping[str, Any]], known: Collection[str]
    ) -> dict[str, tuple[Incident, ...]]:
        incidents: dict[str, tuple[Incident, ...]] = {}
        for number, content in enumerate(contents):
            where = f"incidents.{number}"
            table = self._table(_Incident, content, where)
            if table is None:
                continue
            if table.model not in known:
                self.problems.append(
                    f"{where}.model is {table.model!r}: must be one of {', '.join(sorted(known))}"
                )
                continue
            try:
                incident = Incident(
                    table.start.timestamp(), table.end.timestamp(), table.capacity_factor
                )
            except ValueError:
                self.problems.append(
                    f"{where}.end is {table.end}: must be after start, {table.start}"
                )
                continue
            incidents[table.model] = (*incidents.get(table.model, ()), incident)
        return incidents

    def _profile(
        self,
        name: str,
        content: Mapping[str, Any] | None,
        workload: Workload,
        incidents: tuple[Incident, ...],
    ) -> Profile | None:
        where = f"models.{name}"
        base = profile_for(name) if content is None else MODELS.get(name)
        given: dict[str, Any] = {}
        if content is not None:
            table = self._table(_Model, content, where)
            if table is None:
                return None
            given = {"source": self._source, **table.given()}
        missing = sorted(NEEDED - given.keys()) if base is None else []
        if missing:
            self.problems.append(f"{where} needs {', '.join(missing)}: it is not built in")
            return None
        given |= {"workload": workload, "incidents": incidents}
        try:
            return Profile(name, **given) if base is None else replace(base, **given)
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return None
