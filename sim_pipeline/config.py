"""Every environment variable of the pipeline: read here, validated here, once.

What belongs here: a variable's name, its default, what is allowed. Nothing else of ours reads
`os.environ`. A wrong value stops a process before it starts anything: `load_settings` raises one
`SettingsError` that names every bad variable, its value (never a secret's) and what is allowed.
"""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

_ENV_FILE = Path(".env")

MODEL_NAME_LIMIT = 50
# A partition key is "day|model", a shell expands square brackets, and Dagster writes a range of
# partitions with three dots.
MODEL_NAME_FORBIDDEN = ("|", "[", "]", "...")

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
# A name, an IPv4 address, or an IPv6 address with its zone.
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
# Where python-dotenv sees a comment after a value.
_QUOTES = "\"'"
_COMMENT = re.compile(r"\s#|^#(?:\s|$)")
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
        found = [text for text in MODEL_NAME_FORBIDDEN if text in name]
        if found:
            raise ValueError(f"{name!r} contains {' '.join(found)}")
        if not name.isprintable():
            raise ValueError(f"{name!r} contains a character that cannot be printed")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"named more than once: {', '.join(repeated)}")
    return names


def _without_brackets(host: str) -> str:
    """Take the brackets off an IPv6 address: in a URL it has them, a resolver takes none."""
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    return host


def _host_names(value: object) -> object:
    """Split UI_ALLOWED_HOSTS at its commas."""
    if not isinstance(value, str):
        return value
    names = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    for name in names:
        if not _HOST_NAME.fullmatch(_without_brackets(name)):
            raise ValueError(f"{name!r} is no host name: it has no scheme, port or path")
    return tuple(map(_without_brackets, names))


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
Host = Annotated[str, AfterValidator(_without_brackets), Field(min_length=1, max_length=253)]
Port = Annotated[int, Field(ge=1, le=65535)]
OptionalFile = Annotated[Path | None, BeforeValidator(_path_or_none), AfterValidator(_readable)]


def _setting(default: Any, allowed: str) -> Any:
    """Declare a variable: its default and, in words, what is allowed."""
    return Field(default, description=allowed)


class Settings(BaseModel):
    """The pipeline's configuration, one field an environment variable (upper case outside)."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, validate_default=True)

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

    llm_models: Annotated[tuple[str, ...], BeforeValidator(_models)] = Field(
        DEFAULT_MODELS,
        validation_alias="LLM_MODELS_STR",
        description=(
            f"comma-separated names, each of 1 to {MODEL_NAME_LIMIT} characters without"
            " | [ ] ... and named once"
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
    ui_path_prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$", max_length=200)] = (
        _setting(
            "", "empty, or a path such as /simulation: letters, digits, . _ ~ - and no / at the end"
        )
    )
    ui_allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_host_names)] = _setting(
        (), "comma-separated host names or IP addresses by which browsers reach the UI, or empty"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _means_the_same_everywhere(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what `.env` and `docker run --env-file` read differently.

        Docker passes on quotation marks and comments as part of the value. A value that has them
        was written for `.env`, where they are none. A comment after a password in `.env` is
        refused where the file is read: a password from elsewhere may hold anything.
        """
        if not isinstance(value, str):
            return value
        field = cls.model_fields[info.field_name] if info.field_name else None
        secret = field is not None and field.annotation is SecretStr
        enclosed = len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES
        if enclosed or (not secret and value.startswith(tuple(_QUOTES))):
            raise ValueError(
                "begins with a quotation mark, which docker run --env-file makes part of the value:"
                " write it without"
            )
        if secret:
            if value != value.strip():
                raise ValueError("begins or ends with a blank or a line break")
            return value
        # A folder may be called anything: some values begin with the path of this checkout.
        if _COMMENT.search(value.rpartition("/")[2] if value.startswith("/") else value):
            raise ValueError(
                "holds a comment, which docker run --env-file makes part of the value:"
                " write the comment on a line of its own"
            )
        return value.strip()

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

    @property
    def ui_url(self) -> str:
        """Address of the UI, without a slash at its end, as this machine reaches it."""
        # A server that listens on every address is asked at loopback.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.ui_host, self.ui_host)  # noqa: S104
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.ui_port}{self.ui_path_prefix}"

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


_SECRETS = {
    variable_name(name)
    for name, field in Settings.model_fields.items()
    if field.annotation is SecretStr
}


def _explain(error: ValidationError) -> str:
    """Turn pydantic's findings into one line a variable."""
    fields = {variable_name(name): field for name, field in Settings.model_fields.items()}
    lines = []
    for found in error.errors():
        name = (
            variable_name(field)
            if (field := str(found["loc"][0])) in Settings.model_fields
            else field
        )
        value = "(hidden)" if name in _SECRETS else repr(found["input"])
        reason = found["msg"].removeprefix("Value error, ")
        why = f" {reason};" if found["type"] == "value_error" else ""
        lines.append(f"  {name}={value}:{why} allowed is {fields[name].description}")
    count = f"{len(lines)} setting{'s are' if len(lines) > 1 else ' is'} wrong"
    return "\n".join([f"{count}:", *lines])


def _read_env_file() -> dict[str, str]:
    """Return what `.env` sets; nothing where there is no such file.

    A value is taken as it is written: a `$` in it stands for itself.

    Raises:
        SettingsError: a line sets nothing, or sets a password with a comment behind it. The message
            names lines by their numbers only, for one may hold a password.
    """
    if not _ENV_FILE.is_file():
        return {}
    values: dict[str, str] = {}
    unreadable: list[int] = []
    commented: list[int] = []
    # Some editors begin a file with a byte order mark.
    with _ENV_FILE.open(encoding="utf-8-sig") as file:
        for statement in parse_stream(file):
            text = statement.original.string
            blank = text[: len(text) - len(text.lstrip())]
            line = statement.original.line + len(blank.splitlines())
            if statement.error or (statement.key is not None and statement.value is None):
                unreadable.append(line)
            elif statement.key is not None and statement.value is not None:
                values[statement.key] = statement.value
                if statement.key in _SECRETS and _has_comment(text, statement.value):
                    commented.append(line)
    if unreadable:
        raise SettingsError(
            f".env cannot be read at {_lines(unreadable)}: allowed is NAME=value, with quotes at"
            " both ends of the value or none, or a # comment"
        )
    if commented:
        raise SettingsError(
            f".env has a comment behind a password at {_lines(commented)}: allowed is a comment on"
            " a line of its own, for docker run --env-file would make it part of the password"
        )
    return values


def _has_comment(statement: str, value: str) -> bool:
    """Tell whether something follows the value of a statement of `.env`."""
    written = statement.partition("=")[2].strip()
    if written[:1] in _QUOTES:
        return bool(written) and not written.endswith(written[0])
    return written != value


def _lines(numbers: list[int]) -> str:
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read and validate the configuration from the environment and `.env`.

    Args:
        overrides: values by field name that win over both (tests, and commands with options).

    Raises:
        SettingsError: names every bad variable, its value and what is allowed; or says why `.env`
            can't be read.
    """
    try:
        written = {**_read_env_file(), **os.environ}
        values: dict[str, Any] = {
            field: written[name]
            for field in Settings.model_fields
            if (name := variable_name(field)) in written
        }
        return Settings(**{**values, **(overrides or {})})
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
