"""Wrong settings are all named at once, with what is allowed; right ones are read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sim_pipeline.config import DEFAULT_MODELS, Settings, SettingsError, read_settings

pytestmark = pytest.mark.usefixtures("clean_environment")

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


def test_defaults_are_those_of_the_documentation() -> None:
    settings = read_settings()
    assert settings.llm_models == DEFAULT_MODELS
    assert settings.num_data_points == 5
    assert settings.random_seed == 42
    assert settings.simulation_interval == 3600
    assert settings.simulation_start == datetime(2026, 1, 1, tzinfo=UTC)
    assert settings.catch_up_hours == 24
    assert settings.backfill_days_per_run == 366
    assert settings.event_retention_days == 30
    assert settings.results_retention_days == 0
    assert settings.rabbitmq_queue == "simulation_results"
    assert settings.dagster_postgres_db == "dagster"


def test_a_folder_may_be_called_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "it's #1 $x" / "a.log"
    monkeypatch.setenv("LOG_FILE", str(file))
    assert read_settings().log_file == file


def test_the_folder_of_the_log_is_made(tmp_path: Path) -> None:
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
        ("RESULTS_RETENTION_DAYS", "-1", "or 0 (keep all)"),
        ("RESULTS_RETENTION_DAYS", "3651", "days to 3650"),
        ("RESULTS_RETENTION_DAYS", "1", "longer than CATCH_UP_HOURS"),
        ("POSTGRES_PORT", "65536", "1 to 65535"),
        ("POSTGRES_HOST", "", "a host name or an IP address"),
        ("POSTGRES_SSLMODE", "on", "verify-full"),
        ("DAGSTER_POSTGRES_DB", "sim_pipeline", "other than POSTGRES_DB"),
        ("RABBITMQ_PORT", "amqp", "1 to 65535"),
        ("RABBITMQ_QUEUE", "amq.mine", "not beginning amq."),
        ("RABBITMQ_TLS", "maybe", "true or false"),
        ("RABBITMQ_CA_FILE", "/no/such/file.pem", "a readable file of CA certificates"),
        ("LLM_MODELS_STR", "", "each of 1 to 50 characters"),
        ("LLM_MODELS_STR", "GPT-4o,,Mistral-Large", "each of 1 to 50 characters"),
        ("LLM_MODELS_STR", "GPT-4o, GPT-4o", "named once"),
        ("LLM_MODELS_STR", "m" * 51, "each of 1 to 50 characters"),
        ("LLM_MODELS_STR", "GPT|4o", "without | [ ]"),
        ("LLM_MODELS_STR", "GPT-4o,phi-3...mini", "without | [ ] ..."),
        ("LLM_MODELS_STR", '"GPT-4o,Llama-3.1-8B"', "write it without"),
        ("LLM_MODELS_STR", "'GPT-4o', 'Llama-3.1-8B'", "write it without"),
        ("LLM_MODELS_STR", '"GPT-4o', "write it without"),
        ("LLM_MODELS_STR", "GPT-4o,Llama-3.1-8B # two", "on a line of its own"),
        ("RABBITMQ_QUEUE", '"simulation_results"', "write it without"),
        ("RABBITMQ_VHOST", "/ # the default", "on a line of its own"),
        ("LLM_MODELS_STR", "GPT-4o # see docs/models.md", "on a line of its own"),
        ("RABBITMQ_CA_FILE", " # none", "on a line of its own"),
        ("SIMULATION_INTERVAL", "60 # a minute", "on a line of its own"),
        ("LOG_FILE", "/proc/x.log # mine", "on a line of its own"),
        ("UI_PATH_PREFIX", "simulation", "empty, or a path such as /simulation"),
        ("UI_PATH_PREFIX", "/simulation/", "no / at the end"),
        ("UI_PATH_PREFIX", "/a b", "empty, or a path such as /simulation"),
        ("UI_ALLOWED_HOSTS", "https://ui.example", "has no scheme, port or path"),
        ("UI_ALLOWED_HOSTS", "ui.example:3000", "has no scheme, port or path"),
        ("LLM_MODELS_STR", "GPT[4o]", "without | [ ]"),
        ("SIMULATION_START", TOMORROW, "not in the future"),
        ("SIMULATION_START", "2026-01-01T00:00:00", "with its zone"),
        ("SIMULATION_START", "1969-12-31T00:00:00Z", "from 1970 on"),
        ("LOG_LEVEL", "chatty", "DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("LOG_FILE", "/proc/no/such.log", "a file that can be written"),
        ("CONSOLE_LOGGING", "2", "true or false"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        read_settings()
    lines = str(raised.value).splitlines()
    assert lines[0] == "1 setting is wrong:"
    assert lines[1].startswith(f"  {variable}=")
    assert value[:20] in lines[1]
    assert allowed in lines[1]


@pytest.mark.parametrize(
    ("catch_up", "interval", "shortest"),
    [("24", "3600", 2), ("0", "1", 1), ("48", "60", 3), ("24", "604800", 23), ("21", "3600", 2)],
)
def test_results_are_kept_for_longer_than_a_tick_may_ask_for_them(
    monkeypatch: pytest.MonkeyPatch, catch_up: str, interval: str, shortest: int
) -> None:
    monkeypatch.setenv("CATCH_UP_HOURS", catch_up)
    monkeypatch.setenv("SIMULATION_INTERVAL", interval)
    monkeypatch.setenv("RESULTS_RETENTION_DAYS", str(shortest))
    assert read_settings().results_retention_days == shortest
    if shortest > 1:
        monkeypatch.setenv("RESULTS_RETENTION_DAYS", str(shortest - 1))
        with pytest.raises(SettingsError, match="a tick may ask for windows up to"):
            read_settings()


def test_a_wrong_interval_is_not_blamed_on_the_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATION_INTERVAL", "0")
    monkeypatch.setenv("RESULTS_RETENTION_DAYS", "1")
    with pytest.raises(SettingsError, match="1 setting is wrong"):
        read_settings()


def test_all_wrong_values_are_named_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATION_INTERVAL", "0")
    monkeypatch.setenv("LLM_MODELS_STR", "a,a")
    monkeypatch.setenv("LOG_LEVEL", "chatty")
    with pytest.raises(SettingsError, match="3 settings are wrong") as raised:
        read_settings()
    for variable in ("SIMULATION_INTERVAL='0'", "LLM_MODELS_STR='a,a'", "LOG_LEVEL='chatty'"):
        assert variable in str(raised.value)


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "hunter2")
    monkeypatch.setenv("RABBITMQ_PASSWORD", "hunter3")
    assert "hunter" not in repr(read_settings())
    monkeypatch.setenv("NUM_DATA_POINTS", "0")
    with pytest.raises(SettingsError) as raised:
        read_settings()
    assert "hunter" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_an_env_file_is_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("RANDOM_SEED=7\nNUM_DATA_POINTS=9\nOTHER=kept out\n")
    monkeypatch.setenv("NUM_DATA_POINTS", "11")
    settings = read_settings()
    assert (settings.random_seed, settings.num_data_points) == (7, 11)


@pytest.mark.parametrize("value", ["abc${d}ef", "$HOME", "a$$b", "${RANDOM_SEED:-7}", "a\\nb"])
def test_an_env_file_is_taken_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    (tmp_path / ".env").write_text(f"POSTGRES_PASSWORD={value}\nRABBITMQ_QUEUE={value}\n")
    monkeypatch.setenv("d", "expanded")
    settings = read_settings()
    assert settings.postgres_password.get_secret_value() == value
    assert settings.rabbitmq_queue == value


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RANDOM_SEED=7\n", encoding="utf-8-sig")
    assert read_settings().random_seed == 7


@pytest.mark.parametrize("value", [" GPT-4o,a", "GPT-4o,a ", "GPT-4o,a\r"])
def test_blanks_around_a_value_do_not_count(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LLM_MODELS_STR", value)
    monkeypatch.setenv("RABBITMQ_QUEUE", " mine ")
    settings = read_settings()
    assert (settings.llm_models, settings.rabbitmq_queue) == (("GPT-4o", "a"), "mine")


@pytest.mark.parametrize("value", ['"hunter2"', "'hunter2'", " hunter2", "hunter2\n"])
def test_a_password_that_docker_would_change_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RABBITMQ_PASSWORD", value)
    with pytest.raises(SettingsError, match=r"RABBITMQ_PASSWORD=\(hidden\): begins") as raised:
        read_settings()
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize("value", ["a #b", "#b", 'a"b"', "b'", '"', "a;b&c$d e|f<g>"])
def test_a_password_may_hold_anything_else(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", value)
    assert read_settings().postgres_password.get_secret_value() == value


@pytest.mark.parametrize("written", ["hunter2 # mine", '"hunter2" # mine', "'hunter2'#mine"])
def test_a_comment_behind_a_password_is_refused(tmp_path: Path, written: str) -> None:
    (tmp_path / ".env").write_text(f"# mine\n\nPOSTGRES_PASSWORD={written}\n")
    with pytest.raises(SettingsError, match="line 3: allowed is") as raised:
        read_settings()
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize("written", ["hunter2", '"hunter2"', "'hunter2'  ", ' "hun ter#2"', ""])
def test_a_password_in_a_file_may_be_in_quotes(tmp_path: Path, written: str) -> None:
    (tmp_path / ".env").write_text(f"POSTGRES_PASSWORD={written}\n")
    read_settings()


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_host_may_have_brackets(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    for variable in ("POSTGRES_HOST", "RABBITMQ_HOST", "UI_HOST", "UI_ALLOWED_HOSTS"):
        monkeypatch.setenv(variable, host)
    settings = read_settings()
    assert settings.postgres_host == settings.rabbitmq_host == settings.ui_host == "::1"
    assert settings.ui_allowed_hosts == ("::1",)


@pytest.mark.parametrize(
    ("host", "prefix", "url"),
    [
        ("127.0.0.1", "", "http://127.0.0.1:3000"),
        ("0.0.0.0", "/a/b", "http://127.0.0.1:3000/a/b"),  # noqa: S104 - not bound to
        ("::", "", "http://[::1]:3000"),
        ("[::1]", "/a", "http://[::1]:3000/a"),
        ("ui.example", "", "http://ui.example:3000"),
    ],
)
def test_the_uis_address_is_one_to_open(
    monkeypatch: pytest.MonkeyPatch, host: str, prefix: str, url: str
) -> None:
    monkeypatch.setenv("UI_HOST", host)
    monkeypatch.setenv("UI_PATH_PREFIX", prefix)
    assert read_settings().ui_url == url


def test_a_file_that_is_no_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_bytes(b"RANDOM_SEED=\xff\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingsError, match=r"^\.env is no text in UTF-8: invalid start byte at 12$"
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
def test_a_line_of_the_file_that_sets_nothing_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, lines: str
) -> None:
    (tmp_path / ".env").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingsError, match=rf"^\.env cannot be read at {lines}: allowed is NAME="
    ) as e:
        read_settings()
    assert "hunter" not in str(e.value)


def test_comments_blank_lines_quotes_and_empty_values_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '# mine\n\nexport RANDOM_SEED=7 # lucky\nMODEL_PROFILES_FILE=\nLLM_MODELS_STR="A,\nB"\n'
    (tmp_path / ".env").write_text(text)
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    assert (settings.random_seed, settings.llm_models) == (7, ("A", "B"))
    assert settings.model_profiles_file is None


def test_the_sample_is_valid_and_sets_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = read_settings()
    sample = Path(__file__).parents[1] / ".env.sample"
    for line in sample.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    assert read_settings() == defaults.model_copy(update={"local_services": True})


def test_models_keep_their_order_and_lose_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODELS_STR", " zeta ,alpha,GPT-4o")
    assert read_settings().llm_models == ("zeta", "alpha", "GPT-4o")


def test_a_start_with_another_zone_is_taken_as_the_instant_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIMULATION_START", "2026-03-01T01:00:00+02:00")
    assert read_settings().simulation_start == datetime(2026, 2, 28, 23, tzinfo=UTC)


def test_the_environment_for_children_gives_the_same_settings(
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
