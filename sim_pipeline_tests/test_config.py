"""Settings: defaults, validation, and the reading of `.env` and the environment."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sim_pipeline.config import DEFAULT_MODELS, Settings, SettingsError, read_settings

pytestmark = pytest.mark.usefixtures("clean_environment")

FUTURE = "2200-01-01T00:00:00+00:00"


def test_defaults_match_the_documentation() -> None:
    settings = read_settings()
    assert settings.llm_models == DEFAULT_MODELS
    assert settings.num_data_points == 5
    assert settings.random_seed == 42
    assert settings.simulation_interval == 3600
    assert settings.simulation_start == datetime(2026, 1, 1, tzinfo=UTC)
    assert settings.catch_up_hours == 192
    assert settings.backfill_days_per_run == 366
    assert settings.event_retention_days == 30
    assert settings.results_retention_days == 0
    assert settings.rabbitmq_queue == "simulation_results"
    assert settings.dagster_postgres_db == "dagster"


def test_path_may_contain_any_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "it's #1 $x" / "a.log"
    monkeypatch.setenv("LOG_FILE", str(file))
    assert read_settings().log_file == file


def test_log_folder_is_created(tmp_path: Path) -> None:
    read_settings()
    assert (tmp_path / "logs" / "sim_pipeline.log").exists()


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("SIMULATION_INTERVAL", "hourly", "1 to 604800"),
        ("SIMULATION_INTERVAL", "", "1 to 604800"),
        ("SIMULATION_INTERVAL", "0", "1 to 604800"),
        ("SIMULATION_INTERVAL", "-60", "1 to 604800"),
        ("SIMULATION_INTERVAL", "604801", "1 to 604800"),
        ("SIMULATION_INTERVAL", "1.5", "1 to 604800"),
        ("NUM_DATA_POINTS", "0", "1 to 10000"),
        ("NUM_DATA_POINTS", "10001", "1 to 10000"),
        ("RANDOM_SEED", "-1", "0 to 9223372036854775807"),
        ("RANDOM_SEED", "9223372036854775808", "0 to 9223372036854775807"),
        ("CATCH_UP_HOURS", "-1", "0 to 8760"),
        ("BACKFILL_DAYS_PER_RUN", "0", "1 to 3660"),
        ("BACKFILL_DAYS_PER_RUN", "3661", "1 to 3660"),
        ("EVENT_RETENTION_DAYS", "-1", "0 (keep all) to 3650"),
        ("EVENT_RETENTION_DAYS", "3651", "0 (keep all) to 3650"),
        ("EVENT_RETENTION_DAYS", "0.5", "0 (keep all) to 3650"),
        ("RESULTS_RETENTION_DAYS", "-1", "0 (keep all), or"),
        ("RESULTS_RETENTION_DAYS", "3651", "days up to 3650"),
        ("RESULTS_RETENTION_DAYS", "1", "longer than CATCH_UP_HOURS"),
        ("POSTGRES_PORT", "65536", "1 to 65535"),
        ("POSTGRES_HOST", "", "a host name or an IP address"),
        ("POSTGRES_SSLMODE", "on", "verify-full"),
        ("DAGSTER_POSTGRES_DB", "sim_pipeline", "other than POSTGRES_DB"),
        ("RABBITMQ_PORT", "amqp", "1 to 65535"),
        ("RABBITMQ_QUEUE", "amq.mine", "does not start with amq."),
        ("RABBITMQ_TLS", "maybe", "true or false"),
        ("RABBITMQ_CA_FILE", "/no/such/file.pem", "a readable file of CA certificates"),
        ("LLM_MODELS_STR", "", "each of 1 to 50 characters"),
        ("LLM_MODELS_STR", "GPT-4o,,Mistral-Large", "each of 1 to 50 characters"),
        ("LLM_MODELS_STR", "GPT-4o, GPT-4o", "without duplicates"),
        ("LLM_MODELS_STR", "m" * 51, "each of 1 to 50 characters"),
        ("LLM_MODELS_STR", "GPT|4o", "without | [ ]"),
        ("LLM_MODELS_STR", "GPT-4o,phi-3...mini", "without | [ ] ..."),
        ("LLM_MODELS_STR", '"GPT-4o,Llama-3.1-8B"', "remove the quotation marks"),
        ("LLM_MODELS_STR", "'GPT-4o', 'Llama-3.1-8B'", "remove the quotation marks"),
        ("LLM_MODELS_STR", '"GPT-4o', "remove the quotation marks"),
        ("LLM_MODELS_STR", "GPT-4o,Llama-3.1-8B # two", "on its own line"),
        ("RABBITMQ_QUEUE", '"simulation_results"', "remove the quotation marks"),
        ("RABBITMQ_VHOST", "/ # the default", "on its own line"),
        ("LLM_MODELS_STR", "GPT-4o # see docs/models.md", "on its own line"),
        ("RABBITMQ_CA_FILE", " # none", "on its own line"),
        ("SIMULATION_INTERVAL", "60 # a minute", "on its own line"),
        ("LOG_FILE", "/proc/x.log # mine", "on its own line"),
        ("UI_PATH_PREFIX", "simulation", "empty, or a path such as /simulation"),
        ("UI_PATH_PREFIX", "/simulation/", "without a final /"),
        ("UI_PATH_PREFIX", "/a b", "empty, or a path such as /simulation"),
        ("UI_ALLOWED_HOSTS", "https://ui.example", "has no scheme, port or path"),
        ("UI_ALLOWED_HOSTS", "ui.example:3000", "has no scheme, port or path"),
        ("LLM_MODELS_STR", "GPT[4o]", "without | [ ]"),
        ("SIMULATION_START", FUTURE, "not in the future"),
        ("SIMULATION_START", "2026-01-01T00:00:00", "with a time zone"),
        ("SIMULATION_START", "1969-12-31T00:00:00Z", "from 1970 on"),
        ("LOG_LEVEL", "chatty", "DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("LOG_FILE", "/proc/no/such.log", "a writable file"),
        ("CONSOLE_LOGGING", "2", "true or false"),
    ],
)
def test_invalid_value_is_named_with_allowed_ones(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        read_settings()
    lines = str(raised.value).splitlines()
    assert lines[0] == "1 invalid setting:"
    assert lines[1].startswith(f"  {variable}=")
    assert value[:20] in lines[1]
    assert allowed in lines[1]


@pytest.mark.parametrize(
    ("catch_up", "interval", "shortest"),
    [("24", "3600", 2), ("0", "1", 1), ("48", "60", 3), ("24", "604800", 23), ("21", "3600", 2)],
)
def test_retention_exceeds_the_reach_of_a_tick(
    monkeypatch: pytest.MonkeyPatch, catch_up: str, interval: str, shortest: int
) -> None:
    monkeypatch.setenv("CATCH_UP_HOURS", catch_up)
    monkeypatch.setenv("SIMULATION_INTERVAL", interval)
    monkeypatch.setenv("RESULTS_RETENTION_DAYS", str(shortest))
    assert read_settings().results_retention_days == shortest
    if shortest > 1:
        monkeypatch.setenv("RESULTS_RETENTION_DAYS", str(shortest - 1))
        with pytest.raises(SettingsError, match="a tick may request windows that are up to"):
            read_settings()


def test_invalid_interval_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATION_INTERVAL", "0")
    monkeypatch.setenv("RESULTS_RETENTION_DAYS", "1")
    with pytest.raises(SettingsError, match="1 invalid setting"):
        read_settings()


def test_all_invalid_values_are_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATION_INTERVAL", "0")
    monkeypatch.setenv("LLM_MODELS_STR", "a,a")
    monkeypatch.setenv("LOG_LEVEL", "chatty")
    with pytest.raises(SettingsError, match="3 invalid settings") as raised:
        read_settings()
    for variable in ("SIMULATION_INTERVAL='0'", "LLM_MODELS_STR='a,a'", "LOG_LEVEL='chatty'"):
        assert variable in str(raised.value)


def test_passwords_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "hunter2")
    monkeypatch.setenv("RABBITMQ_PASSWORD", "hunter3")
    assert "hunter" not in repr(read_settings())
    monkeypatch.setenv("NUM_DATA_POINTS", "0")
    with pytest.raises(SettingsError) as raised:
        read_settings()
    assert "hunter" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_environment_overrides_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("RANDOM_SEED=7\nNUM_DATA_POINTS=9\nOTHER=kept out\n")
    monkeypatch.setenv("NUM_DATA_POINTS", "11")
    settings = read_settings()
    assert (settings.random_seed, settings.num_data_points) == (7, 11)


@pytest.mark.parametrize("value", ["abc${d}ef", "$HOME", "a$$b", "${RANDOM_SEED:-7}", "a\\nb"])
def test_env_file_values_are_literal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    (tmp_path / ".env").write_text(f"POSTGRES_PASSWORD={value}\nRABBITMQ_QUEUE={value}\n")
    monkeypatch.setenv("d", "expanded")
    settings = read_settings()
    assert settings.postgres_password.get_secret_value() == value
    assert settings.rabbitmq_queue == value


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RANDOM_SEED=7\n", encoding="utf-8-sig")
    assert read_settings().random_seed == 7


@pytest.mark.parametrize("value", [" GPT-4o,a", "GPT-4o,a ", "GPT-4o,a\r"])
def test_space_around_a_value_is_ignored(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LLM_MODELS_STR", value)
    monkeypatch.setenv("RABBITMQ_QUEUE", " mine ")
    settings = read_settings()
    assert (settings.llm_models, settings.rabbitmq_queue) == (("GPT-4o", "a"), "mine")


@pytest.mark.parametrize("value", ['"hunter2"', "'hunter2'", " hunter2", "hunter2\n"])
def test_password_that_docker_changes_is_rejected(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RABBITMQ_PASSWORD", value)
    with pytest.raises(SettingsError, match=r"RABBITMQ_PASSWORD=\(hidden\): starts") as raised:
        read_settings()
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize("value", ["a #b", "#b", 'a"b"', "b'", '"', "a;b&c$d e|f<g>"])
def test_password_may_contain_other_characters(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", value)
    assert read_settings().postgres_password.get_secret_value() == value


@pytest.mark.parametrize("written", ["hunter2 # mine", '"hunter2" # mine', "'hunter2'#mine"])
def test_comment_after_a_password_is_rejected(tmp_path: Path, written: str) -> None:
    (tmp_path / ".env").write_text(f"# mine\n\nPOSTGRES_PASSWORD={written}\n")
    with pytest.raises(SettingsError, match="line 3; put the comment on its own line") as raised:
        read_settings()
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize("written", ["hunter2", '"hunter2"', "'hunter2'  ", ' "hun ter#2"', ""])
def test_password_in_the_env_file_may_be_quoted(tmp_path: Path, written: str) -> None:
    (tmp_path / ".env").write_text(f"POSTGRES_PASSWORD={written}\n")
    read_settings()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6_host_may_have_brackets(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for variable in ("POSTGRES_HOST", "RABBITMQ_HOST", "UI_HOST", "UI_ALLOWED_HOSTS"):
        monkeypatch.setenv(variable, host)
    settings = read_settings()
    assert settings.postgres_host == settings.rabbitmq_host == settings.ui_host == "::1"
    assert settings.ui_allowed_hosts == ("::1",)


@pytest.mark.parametrize(
    ("host", "prefix", "url"),
    [
        ("127.0.0.1", "", "http://127.0.0.1:3000"),
        ("0.0.0.0", "/a/b", "http://127.0.0.1:3000/a/b"),  # noqa: S104 - nothing binds to it
        ("::", "", "http://[::1]:3000"),
        ("[::1]", "/a", "http://[::1]:3000/a"),
        ("ui.example", "", "http://ui.example:3000"),
    ],
)
def test_ui_url_can_be_opened(
    monkeypatch: pytest.MonkeyPatch, host: str, prefix: str, url: str
) -> None:
    monkeypatch.setenv("UI_HOST", host)
    monkeypatch.setenv("UI_PATH_PREFIX", prefix)
    assert read_settings().ui_url == url


def test_env_file_that_is_not_text_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_bytes(b"RANDOM_SEED=\xff\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingsError, match=r"^\.env is not UTF-8 text: invalid start byte at byte 12$"
    ):
        read_settings()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("RANDOM_SEED=7\nPOSTGRES_PASSWORD hunter2\n", "line 2"),
        ("# mine\n\nPOSTGRES_PASSWORD='hunter2\n", "line 3"),
        ("RANDOM_SEED\n", "line 1"),
        ("RANDOM_SEED 7\nNUM_DATA_POINTS=9\nUI_PORT: 3000\n", "lines 1, 3"),
    ],
)
def test_unreadable_lines_are_named_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, lines: str
) -> None:
    (tmp_path / ".env").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingsError, match=rf"^\.env is invalid in {lines}: allowed is NAME="
    ) as e:
        read_settings()
    assert "hunter" not in str(e.value)


def test_env_file_syntax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '# mine\n\nexport RANDOM_SEED=7 # lucky\nMODEL_PROFILES_FILE=\nLLM_MODELS_STR="A,\nB"\n'
    (tmp_path / ".env").write_text(text)
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    assert (settings.random_seed, settings.llm_models) == (7, ("A", "B"))
    assert settings.model_profiles_file is None


def test_sample_env_file_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = read_settings()
    sample = Path(__file__).parents[1] / ".env.sample"
    for line in sample.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    assert read_settings() == defaults.model_copy(update={"local_services": True})


def test_models_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODELS_STR", " zeta ,alpha,GPT-4o")
    assert read_settings().llm_models == ("zeta", "alpha", "GPT-4o")


def test_start_is_converted_to_utc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIMULATION_START", "2026-03-01T01:00:00+02:00")
    assert read_settings().simulation_start == datetime(2026, 2, 28, 23, tzinfo=UTC)


def test_environment_gives_the_same_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLM_MODELS_STR", "a,b c,d")
    monkeypatch.setenv("POSTGRES_PASSWORD", "p=w d")
    settings = read_settings()
    environment = settings.environment()
    assert set(environment) >= {name.upper() for name in Settings.model_fields} - {"LLM_MODELS"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    again = read_settings()
    assert again.model_copy(update={"log_file": settings.log_file}) == settings
    assert again.log_file == settings.log_file.absolute()
