"""The launch form of a what-if, and its validation into a `Scenario`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import dagster as dg
from pydantic import Field

from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.metrics import MAX_POINTS
from sim_pipeline.simulator.arguments import RUN_RANGES
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.profiles_file import ProfilesFileError, profiles_from, read_profiles
from sim_pipeline.timestamps import ALLOWED, format_timestamp, parse_optional_timestamp
from sim_pipeline.windows import Cadence

MAX_VALUES: Final = 1_000_000
"""Maximum number of values per metric and side of a what-if: windows of all models times points. At
this size a side takes one to two minutes on a slow core, and 32 MB."""

DEFAULT_LENGTH: Final = timedelta(hours=24)

BUILT_IN = "built in"


class WhatIfError(ValueError):
    """The form is invalid; the message lists each field with its value and what is allowed."""


class WhatIf(dg.Config):
    """The inputs to change, and the windows and models to compare.

    The default form changes nothing. A run writes only its own metadata.
    """

    seed: int | None = Field(None, description="The seed, an integer >= 0. Default: RANDOM_SEED")
    points: int | None = Field(
        None,
        description=f"Values per metric and window, 1 to {MAX_POINTS}. Default: NUM_DATA_POINTS",
    )
    profiles: dict[str, Any] = Field(
        {},
        description=(
            "Models, workload and incidents that replace those of MODEL_PROFILES_FILE, as YAML in"
            " that file's format, such as {all_models: {elasticity: 1}}. Default: those of the"
            " file"
        ),
    )
    profiles_file: str = Field(
        "",
        description=(
            "The same as a TOML or YAML file: its absolute path on the machine of the run (on"
            " Kubernetes the run's pod). Empty: `profiles` applies"
        ),
    )
    models: list[str] = Field(
        [], description="The models to compare, from LLM_MODELS_STR. Default: all"
    )
    since: str = Field(
        "",
        description=(
            f"Only windows that start at or after this time: {ALLOWED}. Empty: the last 24 hours"
            f" of windows, or as many as are allowed: {MAX_VALUES:,} values per metric, all"
            " models together"
        ),
    )
    until: str = Field(
        "",
        description=(
            "Only windows that start before this time, in the same format. Empty: up to the latest"
            " window that has ended"
        ),
    )


@dataclass(frozen=True)
class Inputs:
    """The inputs of a simulation, besides model and window.

    Attributes:
        seed: of the random numbers.
        points: values per metric and window.
        profiles: by model.
        source: where the profiles come from, shown in the UI.
    """

    seed: int
    points: int
    profiles: Mapping[str, Profile]
    source: str


@dataclass(frozen=True)
class Scenario:
    """The simulations of a what-if: the same windows from two sets of inputs.

    Attributes:
        llm_names: the models.
        windows: the window numbers, the same for each model.
        cadence: what a window's number means.
        baseline: the current inputs.
        candidate: the inputs of the what-if.
    """

    llm_names: tuple[str, ...]
    windows: range
    cadence: Cadence
    baseline: Inputs
    candidate: Inputs


def read_form(
    form: WhatIf, simulation: SimulationInputs, llm_names: Sequence[str], began: datetime
) -> Scenario:
    """Validate a form.

    Args:
        form: the form.
        simulation: the current inputs.
        llm_names: all models.
        began: when the run started; windows that end later are left out.

    Raises:
        WhatIfError: the form is invalid.
        ProfilesFileError: the current profiles cannot be read.
    """
    return _Reader(form, simulation, llm_names).read(began)


class _Reader:
    """Collects all problems of a form, so that one error lists them."""

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
        baseline = Inputs(
            self._simulation.seed,
            self._simulation.points,
            self._simulation.profiles(llm_names),
            str(file) if file else BUILT_IN,
        )
        candidate = Inputs(
            self._number("seed", self._form.seed, baseline.seed),
            self._number("points", self._form.points, baseline.points),
            *self._profiles(llm_names, baseline),
        )
        since, until = self._timestamp("since"), self._timestamp("until")
        self._refuse_problems()
        cadence = self._simulation.cadence
        allowed = MAX_VALUES // max(baseline.points, candidate.points)
        windows = self._windows(since, until, began, max(1, allowed // len(llm_names)))
        count = len(llm_names) * len(windows)
        if count > allowed:
            self._problems.append(
                f"since, until and models select {len(windows):,} windows of"
                f" {len(llm_names)} models, {count:,} in total: at"
                f" {max(baseline.points, candidate.points):,} points at most {allowed:,} are"
                " allowed"
            )
        self._refuse_problems()
        return Scenario(llm_names, windows, cadence, baseline, candidate)

    def _refuse_problems(self) -> None:
        if self._problems:
            raise WhatIfError("\n".join(self._problems))

    def _models(self) -> tuple[str, ...]:
        unknown = [name for name in self._form.models if name not in self._all_names]
        if unknown:
            self._problems.append(
                f"models contains {', '.join(map(repr, unknown))}: allowed are"
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

    def _profiles(
        self, llm_names: Sequence[str], baseline: Inputs
    ) -> tuple[Mapping[str, Profile], str]:
        given, file = self._form.profiles, self._form.profiles_file
        try:
            match bool(given), bool(file):
                case True, True:
                    self._problems.append(
                        f"profiles and profiles_file ({file!r}) are both set: set only one"
                    )
                case True, False:
                    return profiles_from(given, llm_names, "profiles"), "from the form"
                case False, True:
                    return read_profiles(Path(file), llm_names), file
        except ProfilesFileError as error:
            self._problems.append(f"profiles_file: {error}" if file else str(error))
        return baseline.profiles, baseline.source

    def _timestamp(self, field: str) -> datetime | None:
        try:
            return parse_optional_timestamp(getattr(self._form, field))
        except ValueError as error:
            self._problems.append(f"{field} is {error}")
            return None

    def _windows(
        self, since: datetime | None, until: datetime | None, began: datetime, most: int
    ) -> range:
        """Return the selected windows that have ended; by default at most `most`."""
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
                f"no window has ended yet: the first one ends at"
                f" {format_timestamp(cadence.start_of(first + 1))}"
            )
        elif start >= stop:
            self._problems.append(
                f"no window that has ended starts between since ({self._form.since or 'not set'})"
                f" and until ({self._form.until or 'not set'}): the first one starts at"
                f" {format_timestamp(cadence.start_of(first))}, the last one that has ended at"
                f" {format_timestamp(cadence.start_of(ended - 1))}"
            )
        return range(start, stop)
