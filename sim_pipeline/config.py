"""Every environment variable of the pipeline: read here, validated here, once.

What belongs here: a variable's name, its default, what is allowed. Nothing else of ours reads
`os.environ`. A wrong value stops a process before it starts anything: `load_settings` raises one
`SettingsError` that names every bad variable, its value (never a secret's) and what is allowed.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_ENV_FILE = Path(".env")

MODEL_NAME_LIMIT = 50
# A partition key is "day|model", and the command line of a shell expands square brackets.
MODEL_NAME_FORBIDDEN = "|[]"

DEFAULT_MODELS = (
    "GPT-4o",
    "GPT-4o-mini",
    "Claude-3.5-Sonnet",
    "Gemini-1.5-Flash",
    "Llama-3.1-8B",
    "Llama-3.1-70B",
    "Llama-3.1-405B",
    "Mistral-Large",
    "DeepSeek-V3",
)

_NAME = "a name of 1 to 63 characters"
_PORT = "a port number, 1 to 65535"
_FLAG = "true or false"
_HOST = "a host name or an IP address"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class SettingsError(ValueError):
    """One or more environment variables are wrong; the message names each of them."""


def _models(value: object) -> object:
    """Split LLM_MODELS_STR at its commas; blanks around a name do not count."""
    if not isinstance(value, str):
        return value
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if not 1 <= len(name) <= MODEL_NAME_LIMIT:
            raise ValueError(f"{name!r} has {len(name)} characters")
        found = sorted(set(name) & set(MODEL_NAME_FORBIDDEN))
        if found:
            raise ValueError(f"{name!r} contains {' '.join(found)}")
        if not name.isprintable():
            raise ValueError(f"{name!r} contains a character that cannot be printed")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"named more than once: {', '.join(repeated)}")
    return names


def _utc_not_in_future(value: datetime) -> datetime:
    if value > datetime.now(UTC):
        raise ValueError("lies in the future")
    return value.astimezone(UTC)


def _not_reserved(queue: str) -> str:
    if queue.startswith("amq."):
        raise ValueError("begins amq., which RabbitMQ keeps for itself")
    return queue


def _log_level(value: str) -> str:
    if value.upper() not in _LOG_LEVELS:
        raise ValueError("is no level")
    return value.upper()


def _path_or_none(value: object) -> object:
    return None if value == "" else value


def _writable(path: Path) -> Path:
    """Make the folder and open the file once, so that a log that can't be written says so now."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise ValueError(f"cannot be written: {error.strerror}") from error
    return path


def _readable(path: Path | None) -> Path | None:
    if path is not None and not os.access(path, os.R_OK):
        raise ValueError("cannot be read")
    return path


Name = Annotated[str, Field(min_length=1, max_length=63)]
Host = Annotated[str, Field(min_length=1, max_length=253)]
Port = Annotated[int, Field(ge=1, le=65535)]
OptionalFile = Annotated[Path | None, BeforeValidator(_path_or_none), AfterValidator(_readable)]


def _setting(default: Any, allowed: str) -> Any:
    """Declare a variable: its default and, in words, what is allowed."""
    return Field(default, description=allowed)


class Settings(BaseSettings):
    """The pipeline's configuration, one field an environment variable (upper case outside)."""

    model_config = SettingsConfigDict(
        env_file=_ENV_FILE,
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    postgres_host: Host = _setting("127.0.0.1", _HOST)
    postgres_port: Port = _setting(15432, _PORT)
    postgres_user: Name = _setting("sim_pipeline", _NAME)
    postgres_password: SecretStr = _setting(SecretStr(""), "any text")
    postgres_db: Name = _setting("sim_pipeline", _NAME)
    postgres_sslmode: Literal[
        "disable", "allow", "prefer", "require", "verify-ca", "verify-full"
    ] = _setting("prefer", f"one of {', '.join(_SSL_MODES)}")
    postgres_sslrootcert: OptionalFile = _setting(
        None, "a readable file of CA certificates, or empty"
    )
    dagster_postgres_db: Name = _setting("dagster", f"{_NAME}, other than POSTGRES_DB")

    rabbitmq_host: Host = _setting("127.0.0.1", _HOST)
    rabbitmq_port: Port = _setting(15673, _PORT)
    rabbitmq_user: Name = _setting("sim_pipeline", _NAME)
    rabbitmq_password: SecretStr = _setting(SecretStr(""), "any text")
    rabbitmq_vhost: Annotated[str, Field(min_length=1, max_length=127)] = _setting(
        "/", "a virtual host's name of 1 to 127 characters"
    )
    rabbitmq_queue: Annotated[
        str, Field(min_length=1, max_length=255), AfterValidator(_not_reserved)
    ] = _setting("simulation_results", "a queue name of 1 to 255 characters, not beginning amq.")
    rabbitmq_tls: bool = _setting(default=False, allowed=_FLAG)
    rabbitmq_ca_file: OptionalFile = _setting(None, "a readable file of CA certificates, or empty")

    llm_models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_models)] = Field(
        DEFAULT_MODELS,
        validation_alias="LLM_MODELS_STR",
        description=(
            f"comma-separated names, each of 1 to {MODEL_NAME_LIMIT} characters without"
            " | [ ] and named once"
        ),
    )
    model_profiles_file: OptionalFile = _setting(
        None, "a readable TOML or YAML file of model profiles, or empty"
    )
    num_data_points: Annotated[int, Field(ge=1, le=10_000)] = _setting(
        5, "a whole number, 1 to 10000"
    )
    random_seed: Annotated[int, Field(ge=0, lt=2**63)] = _setting(
        42, "a whole number, 0 to 9223372036854775807"
    )
    simulation_interval: Annotated[int, Field(ge=1, le=604_800)] = _setting(
        3600, "a whole number of seconds, 1 to 604800"
    )
    simulation_start: Annotated[AwareDatetime, AfterValidator(_utc_not_in_future)] = _setting(
        datetime(2026, 1, 1, tzinfo=UTC),
        "an ISO 8601 time with its zone, from 1970 on and not in the future,"
        " such as 2026-01-01T00:00:00Z",
    )
    catch_up_hours: Annotated[int, Field(ge=0, le=8760)] = _setting(
        24, "a whole number of hours, 0 to 8760"
    )
    backfill_days_per_run: Annotated[int, Field(ge=1, le=3660)] = _setting(
        366, "a whole number of days, 1 to 3660"
    )
    event_retention_days: Annotated[int, Field(ge=0, le=3650)] = _setting(
        30, "a whole number of days, 0 (keep all) to 3650"
    )
    results_retention_days: Annotated[int, Field(ge=0, le=3650)] = _setting(
        0,
        "a whole number of days to 3650, longer than CATCH_UP_HOURS and three times"
        " SIMULATION_INTERVAL together, or 0 (keep all)",
    )

    log_file: Annotated[Path, AfterValidator(_writable)] = _setting(
        Path("logs/sim_pipeline.log"), "a file that can be written"
    )
    console_logging: bool = _setting(default=True, allowed=_FLAG)
    log_level: Annotated[str, AfterValidator(_log_level)] = _setting(
        "INFO", f"one of {', '.join(_LOG_LEVELS)}"
    )

    local_services: bool = _setting(default=False, allowed=_FLAG)
    ui_host: Host = _setting("127.0.0.1", _HOST)
    ui_port: Port = _setting(3000, _PORT)

    @field_validator("simulation_start", mode="after")
    @classmethod
    def _not_before_the_epoch(cls, value: datetime) -> datetime:
        if value.timestamp() < 0:
            raise ValueError("lies before 1970, where windows are counted from")
        return value

    @field_validator("dagster_postgres_db", mode="after")
    @classmethod
    def _two_databases(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("postgres_db"):
            raise ValueError("is POSTGRES_DB as well")
        return value

    @field_validator("results_retention_days", mode="after")
    @classmethod
    def _nothing_that_a_tick_asks_for(cls, value: int, info: ValidationInfo) -> int:
        """Keep what the schedule would find missing, and have simulated and sent again.

        A tick, which may be late by an interval, looks as far back as CATCH_UP_HOURS and always
        for the latest window that has ended; that window began up to two intervals before.
        """
        if value and {"catch_up_hours", "simulation_interval"} <= info.data.keys():
            needed = timedelta(
                hours=info.data["catch_up_hours"], seconds=3 * info.data["simulation_interval"]
            )
            if timedelta(days=value) <= needed:
                raise ValueError(f"a tick may ask for windows up to {needed} old")
        return value

    def environment(self) -> dict[str, str]:
        """Return the variables as a process's environment carries them, secrets included.

        What Dagster's own files read (`dagster.yaml`, `EnvVar`) is then defined whether a value
        came from the environment, from `.env` or from a default. libpq, and with it Dagster's
        storage, takes its TLS settings from PGSSLMODE and PGSSLROOTCERT.
        """
        values = {}
        for name, value in self:
            match value:
                case SecretStr():
                    text = value.get_secret_value()
                case tuple():
                    text = ",".join(value)
                case bool():
                    text = str(value).lower()
                case datetime():
                    text = value.isoformat()
                case Path():
                    text = str(value.absolute())
                case None:
                    text = ""
                case _:
                    text = str(value)
            values[variable_name(name)] = text
        values["PGSSLMODE"] = self.postgres_sslmode
        if self.postgres_sslrootcert is not None:
            values["PGSSLROOTCERT"] = str(self.postgres_sslrootcert.absolute())
        return values


def variable_name(field: str) -> str:
    """Return the environment variable that sets a field of `Settings`."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else field.upper()


def _explain(error: ValidationError) -> str:
    """Turn pydantic's findings into one line a variable."""
    fields = {variable_name(name): field for name, field in Settings.model_fields.items()}
    secret = {name for name, field in fields.items() if field.annotation is SecretStr}
    lines = []
    for found in error.errors():
        name = str(found["loc"][0]).upper() if found["loc"] else ""
        value = "(hidden)" if name in secret else repr(found["input"])
        reason = found["msg"].removeprefix("Value error, ")
        why = f" {reason};" if found["type"] == "value_error" else ""
        lines.append(f"  {name}={value}:{why} allowed is {fields[name].description}")
    count = f"{len(lines)} setting{'s are' if len(lines) > 1 else ' is'} wrong"
    return "\n".join([f"{count}:", *lines])


def _check_env_file() -> None:
    """Refuse a `.env` of which a line would be passed over, and its setting be the default.

    The message names lines by their numbers only, for one may hold a password.
    """
    if not _ENV_FILE.is_file():
        return
    lines = []
    with _ENV_FILE.open(encoding="utf-8") as file:
        for statement in parse_stream(file):
            if statement.error or (statement.key is not None and statement.value is None):
                text = statement.original.string
                blank = text[: len(text) - len(text.lstrip())]
                lines.append(str(statement.original.line + len(blank.splitlines())))
    if lines:
        raise SettingsError(
            f".env cannot be read at line{'s' if len(lines) > 1 else ''} {', '.join(lines)}:"
            " allowed is NAME=value, with quotes at both ends of the value or none, or a # comment"
        )


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read and validate the configuration from the environment and `.env`.

    Args:
        overrides: values by field name that win over both (tests, and commands with options).

    Raises:
        SettingsError: names every bad variable, its value and what is allowed; or says why `.env`
            can't be read.
    """
    try:
        _check_env_file()
        return Settings(**(overrides or {}))
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    except OSError as error:
        raise SettingsError(
            f"{error.filename or '.env'} cannot be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(f".env is no text in UTF-8: {error.reason} at {error.start}") from None


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Return this process's settings, read once.

    Raises:
        SettingsError: see `read_settings`.
    """
    return read_settings()
