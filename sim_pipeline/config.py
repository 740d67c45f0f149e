"""Every environment variable of the pipeline: its name, default and allowed values.

No other module reads settings from `os.environ`. An invalid value stops a process before it starts
anything: `load_settings` raises one `SettingsError` that lists every invalid variable with its
value (unless it is a secret) and the allowed values.
"""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

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

from sim_pipeline.metrics import MAX_MODEL_NAME_LENGTH, MAX_POINTS
from sim_pipeline.windows import MAX_INTERVAL

_ENV_FILE = Path(".env")

# "|" separates day and model in a partition key, a shell expands square brackets, and Dagster
# writes a range of partitions with three dots.
MODEL_NAME_FORBIDDEN = ("|", "[", "]", "...")

DEFAULT_MODELS = (
    "GPT-4o",
    "GPT-5.6-Terra",
    "GPT-5.6-Sol-high",
    "GPT-5.4-mini",
    "Claude-Sonnet-5-low",
    "Claude-Opus-4.7",
    "Gemini-3.5-Flash-minimal",
    "DeepSeek-V4-Pro",
    "Kimi-K2.7-Code",
    "gpt-oss-120b",
    "Llama-3.1-70B",
    "DeepSeek-V3",
)

_NAME = "a name of 1 to 63 characters"
_PORT = "a port number, 1 to 65535"
_FLAG = "true or false"
_HOST = "a host name or an IP address"
# A host name, an IPv4 address, or an IPv6 address with an optional zone.
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
_QUOTES = "\"'"
# Matches where python-dotenv would see a comment after a value.
_COMMENT = re.compile(r"\s#|^#(?:\s|$)")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class SettingsError(ValueError):
    """Environment variables or `.env` are invalid. The message lists every problem."""


def _models(value: object) -> object:
    """Split LLM_MODELS_STR at commas, strip the names and validate them."""
    if not isinstance(value, str):
        return value
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if not 1 <= len(name) <= MAX_MODEL_NAME_LENGTH:
            raise ValueError(f"{name!r} has {len(name)} characters")
        found = [text for text in MODEL_NAME_FORBIDDEN if text in name]
        if found:
            raise ValueError(f"{name!r} contains {' '.join(found)}")
        if not name.isprintable():
            raise ValueError(f"{name!r} contains an unprintable character")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"contains duplicates: {', '.join(repeated)}")
    return names


def _without_brackets(host: str) -> str:
    """Remove the brackets that an IPv6 address has in a URL; resolvers do not accept them."""
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    return host


def _host_names(value: object) -> object:
    """Split UI_ALLOWED_HOSTS at commas and validate the names."""
    if not isinstance(value, str):
        return value
    names = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    for name in names:
        if not _HOST_NAME.fullmatch(_without_brackets(name)):
            raise ValueError(f"{name!r} is not a host name, which has no scheme, port or path")
    return tuple(map(_without_brackets, names))


def _utc_not_in_future(value: datetime) -> datetime:
    if value > datetime.now(UTC):
        raise ValueError("is in the future")
    return value.astimezone(UTC)


def _not_reserved(queue: str) -> str:
    if queue.startswith("amq."):
        raise ValueError("starts with amq., which RabbitMQ reserves")
    return queue


def _log_level(value: str) -> str:
    if value.upper() not in _LOG_LEVELS:
        raise ValueError("is not a log level")
    return value.upper()


def _path_or_none(value: object) -> object:
    return None if value == "" else value


def _writable(path: Path) -> Path:
    """Create the folder and the file, so that an unwritable log file is reported at startup."""
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
SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
OptionalFile = Annotated[Path | None, BeforeValidator(_path_or_none), AfterValidator(_readable)]


def _setting(default: Any, allowed: str) -> Any:
    """Declare a variable with its default and a description of the allowed values."""
    return Field(default, description=allowed)


def _whole_number(default: int, least: int, most: int, unit: str = "") -> Any:
    """Declare a variable whose value is a whole number from `least` to `most`."""
    number = f"a whole number of {unit}" if unit else "a whole number"
    return Field(default, ge=least, le=most, description=f"{number}, {least} to {most}")


class Settings(BaseModel):
    """The pipeline's settings. A field's environment variable has its name in upper case."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, validate_default=True)

    postgres_host: Host = _setting("127.0.0.1", _HOST)
    postgres_port: Port = _setting(15432, _PORT)
    postgres_user: Name = _setting("sim_pipeline", _NAME)
    postgres_password: SecretStr = _setting(SecretStr(""), "any text")
    postgres_db: Name = _setting("sim_pipeline", _NAME)
    postgres_sslmode: SslMode = _setting("prefer", f"one of {', '.join(get_args(SslMode))}")
    postgres_sslrootcert: OptionalFile = _setting(
        None, "a readable file of CA certificates, or empty"
    )
    dagster_postgres_db: Name = _setting("dagster", f"{_NAME}, other than POSTGRES_DB")

    rabbitmq_host: Host = _setting("127.0.0.1", _HOST)
    rabbitmq_port: Port = _setting(15673, _PORT)
    rabbitmq_user: Name = _setting("sim_pipeline", _NAME)
    rabbitmq_password: SecretStr = _setting(SecretStr(""), "any text")
    rabbitmq_vhost: Annotated[str, Field(min_length=1, max_length=127)] = _setting(
        "/", "the name of a virtual host, 1 to 127 characters"
    )
    rabbitmq_queue: Annotated[
        str, Field(min_length=1, max_length=255), AfterValidator(_not_reserved)
    ] = _setting(
        "simulation_results", "a queue name of 1 to 255 characters that does not start with amq."
    )
    rabbitmq_tls: bool = _setting(default=False, allowed=_FLAG)
    rabbitmq_ca_file: OptionalFile = _setting(None, "a readable file of CA certificates, or empty")

    llm_models: Annotated[tuple[str, ...], BeforeValidator(_models)] = Field(
        DEFAULT_MODELS,
        validation_alias="LLM_MODELS_STR",
        description=(
            "comma-separated names without duplicates, each of 1 to"
            f" {MAX_MODEL_NAME_LENGTH} characters without {' '.join(MODEL_NAME_FORBIDDEN)}"
        ),
    )
    model_profiles_file: OptionalFile = _setting(
        None, "a readable TOML or YAML file of model profiles, or empty"
    )
    num_data_points: int = _whole_number(5, 1, MAX_POINTS)
    random_seed: int = _whole_number(42, 0, 2**63 - 1)
    simulation_interval: int = _whole_number(3600, 1, MAX_INTERVAL, "seconds")
    simulation_start: Annotated[AwareDatetime, AfterValidator(_utc_not_in_future)] = _setting(
        datetime(2026, 1, 1, tzinfo=UTC),
        "an ISO 8601 time with a time zone, from 1970 on and not in the future,"
        " such as 2026-01-01T00:00:00Z",
    )
    catch_up_hours: int = _whole_number(192, 0, 8760, "hours")
    backfill_days_per_run: int = _whole_number(366, 1, 3660, "days")
    event_retention_days: Annotated[int, Field(ge=0, le=3650)] = _setting(
        30, "a whole number of days, 0 (keep all) to 3650"
    )
    results_retention_days: Annotated[int, Field(ge=0, le=3650)] = _setting(
        0,
        "0 (keep all), or a whole number of days up to 3650 that is longer than CATCH_UP_HOURS plus"
        " three times SIMULATION_INTERVAL",
    )

    log_file: Annotated[Path, AfterValidator(_writable)] = _setting(
        Path("logs/sim_pipeline.log"), "a writable file"
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
            "", "empty, or a path such as /simulation of letters, digits, . _ ~ - without a final /"
        )
    )
    ui_allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_host_names)] = _setting(
        (), "comma-separated host names or IP addresses by which browsers reach the UI, or empty"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _means_the_same_everywhere(cls, value: object, info: ValidationInfo) -> object:
        """Reject a value that `.env` and `docker run --env-file` would read differently.

        Docker passes quotation marks and comments on as part of the value, `.env` does not. A
        password may contain " #", so a comment after a password is detected in `_read_env_file`.
        """
        if not isinstance(value, str):
            return value
        field = cls.model_fields[info.field_name] if info.field_name else None
        secret = field is not None and field.annotation is SecretStr
        enclosed = len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES
        if enclosed or (not secret and value.startswith(tuple(_QUOTES))):
            raise ValueError(
                "starts with a quotation mark, which docker run --env-file makes part of the value;"
                " remove the quotation marks"
            )
        if secret:
            if value != value.strip():
                raise ValueError("starts or ends with a space or a line break")
            return value
        # The folders of a path, such as that of the checkout, may contain " #".
        if _COMMENT.search(value.rpartition("/")[2] if value.startswith("/") else value):
            raise ValueError(
                "contains a comment, which docker run --env-file makes part of the value;"
                " put the comment on its own line"
            )
        return value.strip()

    @field_validator("simulation_start", mode="after")
    @classmethod
    def _not_before_the_epoch(cls, value: datetime) -> datetime:
        if value.timestamp() < 0:
            raise ValueError("is before 1970, the start of the first possible window")
        return value

    @field_validator("dagster_postgres_db", mode="after")
    @classmethod
    def _two_databases(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("postgres_db"):
            raise ValueError("is the same as POSTGRES_DB")
        return value

    @field_validator("results_retention_days", mode="after")
    @classmethod
    def _longer_than_a_tick_looks_back(cls, value: int, info: ValidationInfo) -> int:
        """Reject a retention after which a tick would simulate and publish removed windows again.

        A tick looks back CATCH_UP_HOURS, and at least to the latest ended window, which started up
        to two intervals ago. The tick itself may be late by one interval.
        """
        if value and {"catch_up_hours", "simulation_interval"} <= info.data.keys():
            needed = timedelta(
                hours=info.data["catch_up_hours"], seconds=3 * info.data["simulation_interval"]
            )
            if timedelta(days=value) <= needed:
                raise ValueError(f"a tick may request windows that are up to {needed} old")
        return value

    @property
    def ui_url(self) -> str:
        """The UI's URL as this machine reaches it, without a final slash."""
        # A server that listens on all addresses is reached at loopback.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.ui_host, self.ui_host)  # noqa: S104
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.ui_port}{self.ui_path_prefix}"

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables, secrets included.

        With these, `dagster.yaml` finds every variable that it names, also those that come from
        `.env` or from a default. Dagster's storage connects by libpq, which reads its TLS settings
        from PGSSLMODE and PGSSLROOTCERT.
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


def invalid_settings(*lines: str) -> SettingsError:
    """Return the error for invalid settings.

    Args:
        lines: for each invalid setting, its name, value and allowed values.
    """
    count = f"{len(lines)} invalid setting{'s' if len(lines) > 1 else ''}"
    return SettingsError("\n".join([f"{count}:", *(f"  {line}" for line in lines)]))


def _settings_error(error: ValidationError) -> SettingsError:
    """Turn pydantic's errors into one line for each variable."""
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
        lines.append(f"{name}={value}:{why} allowed is {fields[name].description}")
    return invalid_settings(*lines)


def _read_env_file() -> dict[str, str]:
    """Return the variables that `.env` sets, or none if there is no such file.

    Values are literal: `$` does not expand a variable.

    Raises:
        SettingsError: a line is not an assignment, or has a comment after a password. The message
            gives line numbers only, because a line may contain a password.
    """
    if not _ENV_FILE.is_file():
        return {}
    values: dict[str, str] = {}
    unreadable: list[int] = []
    commented: list[int] = []
    # utf-8-sig: some editors write a byte order mark.
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
            f".env is invalid in {_lines(unreadable)}: allowed is NAME=value, with quotes at both"
            " ends of the value or none, or a # comment"
        )
    if commented:
        raise SettingsError(
            f".env has a comment after a password in {_lines(commented)}; put the comment on its"
            " own line, because docker run --env-file makes it part of the password"
        )
    return values


def _has_comment(statement: str, value: str) -> bool:
    """Return whether a comment follows the value of a statement of `.env`."""
    written = statement.partition("=")[2].strip()
    if written[:1] in _QUOTES:
        return bool(written) and not written.endswith(written[0])
    return written != value


def _lines(numbers: list[int]) -> str:
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read and validate the configuration from the environment and `.env`.

    Args:
        overrides: values by field name that take precedence over both.

    Raises:
        SettingsError: lists every invalid variable with its value and the allowed values, or says
            why `.env` can't be read.
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
        raise _settings_error(error) from None
    except OSError as error:
        raise SettingsError(
            f"{error.filename or '.env'} cannot be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f".env is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """Return this process's settings, which are read once.

    Raises:
        SettingsError: see `read_settings`.
    """
    return read_settings()
