"""MODEL_PROFILES_FILE: the user's own models, workload and incidents, from a TOML or YAML file.

docs/profiles.md describes the format.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import yaml

from sim_pipeline.simulator.catalogue import MODELS, WORKLOADS, profile_for
from sim_pipeline.simulator.profile_tables import TablesReader
from sim_pipeline.simulator.profiles import Profile


class ProfilesFileError(ValueError):
    """The file cannot be read or has invalid content; the message names every problem."""


def read_profiles(path: Path | None, models: Sequence[str]) -> dict[str, Profile]:
    """Return the profile of each of ``models``, by name.

    A profile comes from the file, else from the built-in models, else from the model's name. The
    file's workload and its fields for all models apply to all of them.

    Args:
        path: a file that ends in .toml, .yaml or .yml; None means an empty file.
        models: names of the models to simulate. The file may define more.

    Raises:
        ProfilesFileError: the file cannot be read, has an invalid field, or describes a model that
            cannot have its published medians. The message names the file and every invalid field,
            its value and what is allowed.
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
        source: `Profile.source` of the models in the content; ``where`` by default.

    Raises:
        ProfilesFileError: as for `read_profiles`; the message begins with ``where``.
        ValueError: a name in ``models`` is not 1 to 50 characters long.
    """
    reader = TablesReader(source or where, MODELS, WORKLOADS)
    profiles = reader.read(content, models)
    if reader.problems:
        # The workload is read for each model, so its problems repeat.
        raise ProfilesFileError("\n  ".join([f"{where}:", *dict.fromkeys(reader.problems)]))
    return profiles


def _parse(path: Path) -> object:
    if path.suffix not in {".toml", ".yaml", ".yml"}:
        raise ProfilesFileError(f"{path}: the name must end in .toml, .yaml or .yml")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ProfilesFileError(f"{path}: cannot be read: {error}") from error
    return {} if content is None else content
