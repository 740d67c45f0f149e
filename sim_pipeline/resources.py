"""What a run is given: the simulation's inputs, its scope, the database and the broker.

What belongs here: Dagster resources, and the way from settings to them. They hold configuration
and hand out plain objects of the simulator, the store and the broker, which know no Dagster.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr, field_validator

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.cadence import Cadence
from sim_pipeline.config import Settings
from sim_pipeline.moment import ALLOWED, moment_or_none
from sim_pipeline.partitions import Selection, select
from sim_pipeline.profiles_file import read_profiles
from sim_pipeline.sent import Sent
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.store.postgres import Postgres


def results_database(settings: Settings) -> Postgres:
    """Describe the database that the settings name."""
    return Postgres(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password.get_secret_value(),
        database=settings.postgres_db,
        sslmode=settings.postgres_sslmode,
        sslrootcert=settings.postgres_sslrootcert,
    )


def message_broker(settings: Settings) -> BrokerConfig:
    """Describe the broker and the queue that the settings name."""
    return BrokerConfig(
        host=settings.rabbitmq_host,
        port=settings.rabbitmq_port,
        user=settings.rabbitmq_user,
        password=settings.rabbitmq_password.get_secret_value(),
        vhost=settings.rabbitmq_vhost,
        queue=settings.rabbitmq_queue,
        tls=settings.rabbitmq_tls,
        ca_file=settings.rabbitmq_ca_file,
    )


class ResultsDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The PostgreSQL database with the results and the deliveries ledger."""

    host: str = Field(description="Host name or address of the PostgreSQL server")
    port: int = Field(description="Its port")
    user: str = Field(description="The role to log in as")
    password: str = Field(description="Its password: named here, never shown", repr=False)
    database: str = Field(description="The database")
    sslmode: str = Field("prefer", description="libpq's sslmode, from disable to verify-full")
    sslrootcert: str | None = Field(None, description="File of CA certificates")

    @cached_property
    def postgres(self) -> Postgres:
        """The database, with its pool of connections."""
        return Postgres(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=self.database,
            sslmode=self.sslmode,
            sslrootcert=Path(self.sslrootcert) if self.sslrootcert else None,
        )

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close the connections: a code server that evaluates the schedule lives on."""
        if "postgres" in vars(self):
            self.postgres.engine.dispose()


class Broker(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The RabbitMQ queue that simulations are published to."""

    host: str = Field(description="Host name or address of the RabbitMQ server")
    port: int = Field(description="Its AMQP port")
    user: str = Field(description="The user to log in as")
    password: str = Field(description="Its password: named here, never shown", repr=False)
    vhost: str = Field("/", description="The virtual host")
    queue: str = Field(description="The queue, declared durable where it does not exist")
    tls: bool = Field(default=False, description="Connect by TLS, verifying the server")
    ca_file: str | None = Field(None, description="File of CA certificates; else the system's")

    @property
    def config(self) -> BrokerConfig:
        """What the publisher needs to know."""
        return BrokerConfig(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            vhost=self.vhost,
            queue=self.queue,
            tls=self.tls,
            ca_file=Path(self.ca_file) if self.ca_file else None,
        )


class SimulationInputs(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What the numbers depend on, beside the model and the window."""

    interval_seconds: int = Field(description="Length of a window in seconds")
    start: str = Field(description="ISO 8601 time of the first window")
    points: int = Field(description="Values per metric and window")
    seed: int = Field(description="Seed of the random numbers")
    profiles_file: str | None = Field(
        None, description="File of model profiles, workload and incidents; else the built-in ones"
    )

    @cached_property
    def cadence(self) -> Cadence:
        """The windows."""
        return Cadence(self.interval_seconds, datetime.fromisoformat(self.start))

    def profiles(self, llm_names: Sequence[str]) -> dict[str, Profile]:
        """Return the profile of each model, by name.

        Raises:
            ProfilesFileError: the file can't be read or has a bad field.
        """
        return read_profiles(Path(self.profiles_file) if self.profiles_file else None, llm_names)


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
    _sent: Sent = PrivateAttr(default_factory=Sent)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Fix the moment that decides which windows have ended, for all steps of the run."""
        self._began = datetime.now(UTC)
        self._sent = Sent()

    @property
    def sent(self) -> Sent:
        """What the run has sent so far, in this attempt of its step and those before."""
        return self._sent

    @field_validator("since", "until")
    @classmethod
    def _a_moment(cls, value: str) -> str:
        moment_or_none(value)
        return value

    def selection(self, partition_keys: Sequence[str], cadence: Cadence) -> Selection:
        """Return the models and windows of a run over these partitions."""
        return select(
            partition_keys,
            cadence,
            began=self._began,
            since=moment_or_none(self.since),
            until=moment_or_none(self.until),
        )
