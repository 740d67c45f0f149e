"""The launch form of a what-if, and what it asks for once it has been found sound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
from pydantic import Field

from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.simulator.arguments import RUN_RANGES
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.profiles_file import ProfilesFileError, profiles_from, read_profiles
from sim_pipeline.timestamps import ALLOWED, parse_optional_timestamp
from sim_pipeline.windows import Cadence

MAX_VALUES: Final = 1_000_000
"""How many values of a metric a side of a what-if may have: windows of all models times points. A
side then takes a minute or two of a slow core, and 32 MB."""

DEFAULT_LENGTH: Final = timedelta(hours=24)

BUILT_IN = "built in"


class WhatIfError(ValueError):
    """The form asks for what is not allowed; the message names each field, its value and why."""


class WhatIf(dg.Config):
    """What to change, and over which windows and models to see what comes of it.

    As it stands it changes nothing. Nothing is written but the metadata of the run.
    """

    seed: int | None = Field(
        None, description="The seed, a whole number from 0. Default: RANDOM_SEED"
    )
    points: int | None = Field(
        None, description="Values per metric and window, 1 to 10000. Default: NUM_DATA_POINTS"
    )
    profiles: dict[str, Any] = Field(
        {},
        description=(
            "Models, workload and incidents in place of those of MODEL_PROFILES_FILE, in that"
            " file's format, written here as YAML, such as {models: {GPT-4o: {rho: 0.6}}}."
            " Default: those of the file"
        ),
    )
    profiles_file: str = Field(
        "",
        description=(
            "The same from a TOML or YAML file: its absolute path on the machine that the run is"
            " on (on Kubernetes the run's pod). Empty: as `profiles` says"
        ),
    )
    models: list[str] = Field(
        [], description="The models to look at, of those in LLM_MODELS_STR. Default: all"
    )
    since: str = Field(
        "",
        description=(
            f"Only the windows that start then or later: {ALLOWED}. Empty: the 24 hours that end"
            " with the last window, or as many windows as are allowed:"
            f" {MAX_VALUES:,} values of a metric, all models together"
        ),
    )
    until: str = Field(
        "",
        description=(
            "Only the windows that start before then, written likewise. Empty: to the latest one"
            " that has ended"
        ),
    )


@dataclass(frozen=True)
class Inputs:
    """What numbers are made from, beside model and window.

    Attributes:
        seed: of the random numbers.
        points: values per metric and window.
        profiles: by model.
        source: where the profiles come from, for people.
    """

    seed: int
    points: int
    profiles: Mapping[str, Profile]
    source: str


@dataclass(frozen=True)
class Scenario:
    """What is to be simulated.

    Attributes:
        llm_names: the models.
        windows: the numbers of the windows, the same for each model.
        cadence: what a window's number means.
        now: the current inputs.
        then: those of the what-if.
    """

    llm_names: tuple[str, ...]
    windows: range
    cadence: Cadence
    now: Inputs
    then: Inputs


def read_form(
    form: WhatIf, simulation: SimulationInputs, llm_names: Sequence[str], began: datetime
) -> Scenario:
    """Return what a form asks for.

    Args:
        form: as it was filled in.
        simulation: the current inputs.
        llm_names: all models.
        began: when the run began; a window that ends later is left out.

    Raises:
        WhatIfError: something is not allowed.
        ProfilesFileError: the current profiles can't be read.
    """
    return _Reader(form, simulation, llm_names).read(began)


class _Reader:
    """Gathers what is wrong with a form, so that all can be named at once."""

    def __init__(
        self, form: WhatIf, simulation: SimulationInputs, llm_names: Sequence[str]
    ) -> None:
        self._form = form
        self._simulation = simulation
        self._all_names = llm_names
        self._problems: list[str] = []

    def read(self, began: datetime) -> Scenario:
        llm_names = self._models()
        file = self._simulation.profiles_file
        now = Inputs(
            self._simulation.seed,
            self._simulation.points,
            self._simulation.profiles(llm_names),
            str(file) if file else BUILT_IN,
        )
        then = Inputs(
            self._number("seed", self._form.seed, now.seed),
            self._number("points", self._form.points, now.points),
            *self._profiles(llm_names, now),
        )
        since, until = self._moment("since"), self._moment("until")
        self._refuse_problems()
        cadence = self._simulation.cadence
        allowed = MAX_VALUES // max(now.points, then.points)
        windows = self._windows(since, until, began, max(1, allowed // len(llm_names)))
        count = len(llm_names) * len(windows)
        if count > allowed:
            self._problems.append(
                f"since, until and models ask for {len(windows):,} windows of"
                f" {len(llm_names)} models, {count:,} together: at"
                f" {max(now.points, then.points):,} points at most {allowed:,} are allowed"
            )
        self._refuse_problems()
        return Scenario(llm_names, windows, cadence, now, then)

    def _refuse_problems(self) -> None:
        if self._problems:
            raise WhatIfError("\n".join(self._problems))

    def _models(self) -> tuple[str, ...]:
        unknown = [name for name in self._form.models if name not in self._all_names]
        if unknown:
            self._problems.append(
                f"models names {', '.join(map(repr, unknown))}: allowed are"
                f" {', '.join(self._all_names)}"
            )
        chosen = [name for name in self._all_names if name in self._form.models]
        return tuple(chosen or self._all_names)

    def _number(self, field: str, value: int | None, current: int) -> int:
        if value is None:
            return current
        if not RUN_RANGES[field].allows(value):
            self._problems.append(f"{field} is {value}: must be {RUN_RANGES[field]}")
        return value

    def _profiles(self, llm_names: Sequence[str], now: Inputs) -> tuple[Mapping[str, Profile], str]:
        given, file = self._form.profiles, self._form.profiles_file
        try:
            match bool(given), bool(file):
                case True, True:
                    self._problems.append(
                        f"profiles and profiles_file, {file!r}, are both given: allowed is one"
                    )
                case True, False:
                    return profiles_from(given, llm_names, "profiles"), "given in the form"
                case False, True:
                    return read_profiles(Path(file), llm_names), file
        except ProfilesFileError as error:
            self._problems.append(f"profiles_file: {error}" if file else str(error))
        return now.profiles, now.source

    def _moment(self, field: str) -> datetime | None:
        try:
            return parse_optional_timestamp(getattr(self._form, field))
        except ValueError as error:
            self._problems.append(f"{field} is {error}")
            return None

    def _windows(
        self, since: datetime | None, until: datetime | None, began: datetime, most: int
    ) -> range:
        """Return the windows asked for that have ended; by default no more than `most`."""
        cadence = self._simulation.cadence
        first, ended = cadence.first_window, cadence.window_at(began)
        stop = ended if until is None else cadence.windows_between(cadence.start, until).stop
        stop = min(stop, ended)
        if since is None:
            length = -(-DEFAULT_LENGTH // timedelta(seconds=cadence.interval))
            start = max(first, stop - min(length, most))
        else:
            start = cadence.windows_between(since, max(since, began)).start
        if ended <= first:
            self._problems.append(
                f"no window has ended yet: the first does at"
                f" {cadence.start_of(first + 1).isoformat()}"
            )
        elif start >= stop:
            self._problems.append(
                f"no window that has ended starts from since, {self._form.since or 'not given'},"
                f" on and before until, {self._form.until or 'not given'}: the first starts at"
                f" {cadence.start_of(first).isoformat()}, the last one that has ended at"
                f" {cadence.start_of(ended - 1).isoformat()}"
            )
        return range(start, stop)
