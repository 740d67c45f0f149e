"""`SimulationInputs`: what a window's values depend on, besides the model and the window."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.windows import Cadence


@dataclass(frozen=True)
class SimulationInputs:
    """The inputs of a simulation, besides the model and the window.

    Attributes:
        cadence: the windows.
        points: values per metric and window.
        seed: seed of the random streams.
        profiles_file: file of model profiles, workload and incidents; None for the built-in ones.
    """

    cadence: Cadence
    points: int
    seed: int
    profiles_file: Path | None

    def profiles(self, llm_names: Sequence[str]) -> dict[str, Profile]:
        """Return the profile of each model, by name.

        Raises:
            ProfilesFileError: the file can't be read or has an invalid field.
        """
        return read_profiles(self.profiles_file, llm_names)
