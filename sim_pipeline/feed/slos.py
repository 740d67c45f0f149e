"""Stores the limits that the profiles give the models' requests."""

from collections.abc import Iterable

from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.slos import ModelSlo, save_slos


def save_limits(postgres: Postgres, profiles: Iterable[Profile]) -> None:
    """Store the limits of these models as the current ones; those of other models stay."""
    save_slos(
        postgres,
        [
            ModelSlo(profile.name, profile.workload.name, **vars(profile.limits))
            for profile in profiles
        ],
    )
