"""What a run is given: the simulation's inputs, its scope, the database and the broker.

What belongs here: Dagster resources, and the way from settings to them. They hand out plain objects
of the simulator, the store and the broker, which know no Dagster. Only `RunScope` can be set at
launch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from pydantic import Field, PrivateAttr, field_validator

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.config import Settings
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.feed.publish_counts import PublishCounts
from sim_pipeline.feed.selection import Selection, select
from sim_pipeline.store.connection import Postgres
from sim_pipeline.timestamps import ALLOWED, parse_optional_timestamp
from sim_pipeline.windows import Cadence

NO_CONFIG: Final[dict[str, object]] = {}
"""The config schema of what can't be set at launch. Without a schema Dagster takes any config, and
the pipeline would ignore it."""


@dataclass(frozen=True)
class ResultsDatabase:
    """The PostgreSQL database with the results and the deliveries ledger.

    Attributes:
        postgres: how it is reached; its pool of connections is closed after each run and tick.
    """

    postgres: Postgres


@dataclass(frozen=True)
class Broker:
    """The RabbitMQ queue that simulations are published to.

    Attributes:
        config: what the publisher needs to know.
    """

    config: BrokerConfig


def settings_as_resources(settings: Settings) -> dict[str, dg.ResourceDefinition]:
    """Return the resources that hold the settings.

    They have no fields that a launch could set. What a run works with is what the environment of
    its process says, also where it is executed again after a setting has changed.
    """

    @dg.resource(config_schema=NO_CONFIG, description="The results database, as POSTGRES_* name it")
    def results(_context: dg.InitResourceContext) -> Iterator[ResultsDatabase]:
        postgres = results_database(settings)
        try:
            yield ResultsDatabase(postgres)
        finally:
            # A code server that evaluates the schedule lives on.
            postgres.engine.dispose()

    @dg.resource(config_schema=NO_CONFIG, description="The queue, as RABBITMQ_* name it")
    def broker(_context: dg.InitResourceContext) -> Broker:
        return Broker(message_broker(settings))

    @dg.resource(
        config_schema=NO_CONFIG,
        description="Seed, points, interval, start and profiles, as the environment has them",
    )
    def simulation(_context: dg.InitResourceContext) -> SimulationInputs:
        return SimulationInputs(
            Cadence(settings.simulation_interval, settings.simulation_start),
            settings.num_data_points,
            settings.random_seed,
            settings.model_profiles_file,
        )

    return {"results": results, "broker": broker, "simulation": simulation}


class RunScope(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Which windows of its partitions a run is for, and what it does with those already there.

    With the defaults it takes the windows of its partitions that have ended when it begins,
    simulates what is missing or was made from other inputs, and publishes what is undelivered.
    """

    # An empty text stands for no bound: the launchpad fills in defaults, but none that is null.
    since: str = Field(
        "",
        description=(
            f"Only the windows that start then or later: {ALLOWED}."
            " Empty: from the start of the partitions' first day"
        ),
    )
    until: str = Field(
        "",
        description=(
            "Only the windows that start before then, written likewise. Empty: to the end of the"
            " partitions' last day"
        ),
    )
    replace: bool = Field(
        default=True,
        description=(
            "Whether to simulate and publish anew the windows that are stored from other inputs"
            " (seed, number of points, profile). If false they stay as they are"
        ),
    )
    force: bool = Field(
        default=False,
        description=(
            "Whether to simulate and write also the windows that are stored from the same inputs:"
            " repairs rows that someone changed, and sends nothing again"
        ),
    )
    resend: bool = Field(
        default=False,
        description=(
            "Whether to publish the windows that are delivered once more, under the same message"
            " ids: for a consumer that lost them. One that drops repeated ids takes no notice"
        ),
    )
    _began: datetime = PrivateAttr(default_factory=lambda: datetime.now(UTC))
    _sent: PublishCounts = PrivateAttr(default_factory=PublishCounts)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Fix the moment that decides which windows have ended, for all steps of the run."""
        self._began = datetime.now(UTC)
        self._sent = PublishCounts()

    @property
    def sent(self) -> PublishCounts:
        """What the run has sent so far, in this attempt of its step and those before."""
        return self._sent

    @field_validator("since", "until")
    @classmethod
    def _a_moment(cls, value: str) -> str:
        parse_optional_timestamp(value)
        return value

    def selection(self, partition_keys: Sequence[str], cadence: Cadence) -> Selection:
        """Return the models and windows of a run over these partitions."""
        return select(
            partition_keys,
            cadence,
            began=self._began,
            since=parse_optional_timestamp(self.since),
            until=parse_optional_timestamp(self.until),
        )
