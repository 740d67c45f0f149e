"""The built-in models and workloads, from catalogue.toml."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sim_pipeline.simulator.profile_tables import TablesReader
from sim_pipeline.simulator.profiles import Profile, Workload, derived_profile


def _read() -> tuple[Mapping[str, Profile], Mapping[str, Workload]]:
    content = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
    reader = TablesReader("the catalogue")
    models = reader.read(content, list(content["models"]))
    if reader.problems:
        raise ValueError("catalogue.toml: " + "; ".join(reader.problems))
    return MappingProxyType(models), MappingProxyType(reader.workloads)


MODELS, WORKLOADS = _read()
"""The built-in models, and the classes of workload, by name."""


def profile_for(name: str) -> Profile:
    """Return the profile of a model: the built-in one, else one derived from its name.

    Args:
        name: the model's name, 1 to 50 characters.

    Raises:
        ValueError: the name is empty or too long.
    """
    return MODELS.get(name) or derived_profile(name)
