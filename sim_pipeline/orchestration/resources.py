"""The Dagster resources of a run: simulation inputs, scope, results database and broker.

They are built from the settings and provide plain objects that do not depend on Dagster. Only
`RunScope` can be set at launch.
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
from sim_pipeline.feed.run_stats import PublishCounts
from sim_pipeline.feed.selection import Selection, select
from sim_pipeline.store.connection import Postgres
from sim_pipeline.timestamps import ALLOWED, parse_optional_timestamp
from sim_pipeline.windows import Cadence

NO_CONFIG: Final[dict[str, object]] = {}
"""The config schema of a resource that cannot be set at launch. Without a schema Dagster would
accept any config, and the pipeline would ignore it."""


@dataclass(frozen=True)
class ResultsDatabase:
    """The PostgreSQL database with the results and the deliveries ledger.

    Attributes:
        postgres: the connection parameters and the pool, which is closed after each run and tick.
    """

    postgres: Postgres


@dataclass(frozen=True)
class Broker:
    """The RabbitMQ queue that simulations are published to.

    Attributes:
        config: the publisher's settings.
    """

    config: BrokerConfig


def settings_as_resources(settings: Settings) -> dict[str, dg.ResourceDefinition]:
    """Return the resources that hold the settings.

    A launch cannot set them. A run uses the environment of its process, also when it is re-executed
    after a setting has changed.
    """

    @dg.resource(config_schema=NO_CONFIG, description="The results database that POSTGRES_* name")
    def results(_context: dg.InitResourceContext) -> Iterator[ResultsDatabase]:
        postgres = results_database(settings)
        try:
            yield ResultsDatabase(postgres)
        finally:
            # The code server evaluates schedules and outlives each evaluation.
            postgres.engine.dispose()

    @dg.resource(config_schema=NO_CONFIG, description="The queue that RABBITMQ_* name")
    def broker(_context: dg.InitResourceContext) -> Broker:
        return Broker(message_broker(settings))

    @dg.resource(
        config_schema=NO_CONFIG,
        description="Seed, points, interval, start and profiles from the environment",
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
    """The windows that a run covers, and how it treats those already stored.

    By default a run covers all windows of its partitions that have ended when it starts. It
    simulates those that are missing or stored from other inputs, and publishes those undelivered.
    """

    # An empty string means no bound: the launchpad cannot fill in null as a default.
    since: str = Field(
        "",
        description=(
            f"Only windows that start at or after this time: {ALLOWED}."
            " Empty: from the start of the partitions' first day"
        ),
    )
    until: str = Field(
        "",
        description=(
            "Only windows that start before this time, in the same format. Empty: to the end of"
            " the partitions' last day"
        ),
    )
    replace: bool = Field(
        default=True,
        description=(
            "Simulate and publish again the windows that are stored from other inputs (seed,"
            " number of points, profile). If false, these windows are skipped"
        ),
    )
    force: bool = Field(
        default=False,
        description=(
            "Simulate and write also the windows that are stored from the same inputs: repairs"
            " rows that were changed. It does not publish them again"
        ),
    )
    resend: bool = Field(
        default=False,
        description=(
            "Publish delivered windows again under the same message ids, for a consumer that lost"
            " them. A consumer that drops repeated ids ignores them"
        ),
    )
    _began: datetime = PrivateAttr(default_factory=lambda: datetime.now(UTC))
    _sent: PublishCounts = PrivateAttr(default_factory=PublishCounts)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Fix the time that decides which windows have ended, for all steps of the run."""
        self._began = datetime.now(UTC)
        self._sent = PublishCounts()

    @property
    def sent(self) -> PublishCounts:
        """The messages that the run has sent so far, over all attempts of the step."""
        return self._sent

    @field_validator("since", "until")
    @classmethod
    def _check_timestamp(cls, value: str) -> str:
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
