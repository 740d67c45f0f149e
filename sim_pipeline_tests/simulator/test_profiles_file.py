"""MODEL_PROFILES_FILE: what it changes, and how errors name its problems."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from sim_pipeline.simulator import profiles_file
from sim_pipeline.simulator.catalogue import MODELS, WORKLOADS
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profile_tables import REQUIRED_FIELDS
from sim_pipeline.simulator.profiles import DERIVED, Incident, Slo, Thinking, Workload
from sim_pipeline.simulator.profiles_file import (
    ProfilesFileError,
    profiles_from,
    read_profiles,
)

TOML = """
[workload]
arrival_cv = 2
heavy_clients = 5
output_lengths = { log_median = 5.5, maximum = 4096 }

[all_models]
elasticity = 1
released = 2026-01-15

[models."Llama-3.1-70B"]
rho = 0.6
elasticity = 0.5

[models.ours]
ttft_ref = 0.5
tps_ref = 90
cap = 12
rho = 0.4
batch_limit = 128
source = "our load test"
creator = "us"
measured = 2026-07-10
retired = "2026-12-01"
random_incidents = false

[[incidents]]
model = "ours"
start = 2026-03-02T09:00:00Z
end = 2026-03-02T11:30:00+01:00
capacity_factor = 0.4

[[incidents]]
model = "GPT-4o"
start = "2026-03-02T09:00:00Z"
end = "2026-03-02T10:00:00Z"
capacity_factor = 1
"""

YAML = """
workload:
  arrival_cv: 2
  heavy_clients: 5
  output_lengths: {log_median: 5.5, maximum: 4096}
all_models: {elasticity: 1, released: 2026-01-15}
models:
  Llama-3.1-70B: {rho: 0.6, elasticity: 0.5}
  ours:
    ttft_ref: 0.5
    tps_ref: 90
    cap: 12
    rho: 0.4
    batch_limit: 128
    source: our load test
    creator: us
    measured: 2026-07-10
    retired: "2026-12-01"
    random_incidents: false
incidents:
  - {model: ours, start: 2026-03-02T09:00:00Z, end: 2026-03-02T11:30:00+01:00, capacity_factor: 0.4}
  - {model: GPT-4o, start: "2026-03-02T09:00:00Z", end: "2026-03-02T10:00:00Z", capacity_factor: 1}
"""

MORNING = datetime(2026, 3, 2, 9, tzinfo=UTC).timestamp()


def written(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    """Return the lines of the error after the first one, which names the file."""
    with pytest.raises(ProfilesFileError) as caught:
        read_profiles(path, ["GPT-4o"])
    first, *lines = str(caught.value).split("\n  ")
    assert first == f"{path}:"
    return lines


@pytest.mark.parametrize(("name", "text"), [("p.toml", TOML), ("p.yaml", YAML), ("p.yml", YAML)])
def test_all_tables_are_read(tmp_path: Path, name: str, text: str) -> None:
    models = ["ours", "Llama-3.1-70B", "GPT-4o", "unheard of"]
    profiles = read_profiles(written(tmp_path, name, text), models)
    assert list(profiles) == models

    usual = Workload()
    for profile in profiles.values():
        workload = profile.workload
        assert (workload.arrival_cv, workload.heavy_clients) == (2, 5)
        assert workload.output_lengths.log_median == 5.5
        assert workload.output_lengths.maximum == 4096
        assert workload.output_lengths.log_sd == usual.output_lengths.log_sd
        assert workload.input_lengths == usual.input_lengths
        assert workload.peak_hour == usual.peak_hour
        assert profile.released == date(2026, 1, 15)

    llama = profiles["Llama-3.1-70B"]
    assert (llama.rho, llama.cap) == (0.6, MODELS["Llama-3.1-70B"].cap)
    assert llama.source == f"from {name}"
    assert (llama.elasticity, profiles["GPT-4o"].elasticity) == (0.5, 1)
    assert profiles["GPT-4o"].source == MODELS["GPT-4o"].source
    ours = profiles["ours"]
    assert (ours.ttft_ref, ours.tps_ref, ours.cap, ours.batch_limit) == (0.5, 90, 12, 128)
    assert (ours.source, ours.creator) == ("our load test", "us")
    assert (ours.measured, ours.retired) == (date(2026, 7, 10), date(2026, 12, 1))
    assert not ours.random_incidents
    assert ours.incidents == (Incident(MORNING, MORNING + 5_400, 0.4),)
    assert profiles["GPT-4o"].incidents == (Incident(MORNING, MORNING + 3_600, 1),)
    assert profiles["unheard of"].source == DERIVED


@pytest.mark.parametrize("path", [None, "empty.toml", "empty.yaml"])
def test_no_file_or_empty_file_changes_nothing(tmp_path: Path, path: str | None) -> None:
    file = None if path is None else written(tmp_path, path, "# nothing\n")
    profiles = read_profiles(file, ["GPT-4o", "unheard of"])
    assert profiles["GPT-4o"] == MODELS["GPT-4o"]
    assert profiles["unheard of"].source == DERIVED


def test_tables_of_a_model_change_what_all_models_have() -> None:
    content: dict[str, Any] = {
        "workload": {"burst_sd": 0.3, "output_lengths": {"log_sd": 0.5}},
        "all_models": {
            "ttft_jitter": 0.1,
            "thinking": {
                "tokens": {"log_median": 2, "log_sd": 0.8, "minimum": 1, "maximum": 100},
                "share": 0.2,
            },
        },
        "models": {
            "GPT-4o": {
                "ttft_jitter": 0.3,
                "workload": {"drift_sd": 0.2, "output_lengths": {"log_median": 4}},
                "thinking": {"visible": True, "tokens": {"maximum": 50}},
            }
        },
    }
    profiles = profiles_from(content, ["GPT-4o", "DeepSeek-V3"], "fleet.toml")
    one, other = profiles["GPT-4o"], profiles["DeepSeek-V3"]
    assert (one.ttft_jitter, other.ttft_jitter) == (0.3, 0.1)
    lengths = replace(Workload().output_lengths, log_sd=0.5)
    assert other.workload == Workload(burst_sd=0.3, output_lengths=lengths)
    assert one.workload == replace(
        other.workload, drift_sd=0.2, output_lengths=replace(lengths, log_median=4)
    )
    assert other.thinking == Thinking(TokenLengths(2, 0.8, 1, 100), share=0.2)
    assert one.thinking == Thinking(TokenLengths(2, 0.8, 1, 50), share=0.2, visible=True)


def test_workload_changes_that_of_a_built_in_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in model may have a workload of its own."""
    own = replace(MODELS["GPT-4o"], workload=Workload(prefix_reuse=0.8))
    monkeypatch.setattr(profiles_file, "MODELS", {"GPT-4o": own})
    profiles = profiles_from(
        {"workload": {"drift_sd": 0.2}, "models": {"GPT-4o": {}}}, ["GPT-4o"], "fleet.toml"
    )
    assert profiles["GPT-4o"].workload == Workload(prefix_reuse=0.8, drift_sd=0.2)


def test_one_error_names_all_problems(tmp_path: Path) -> None:
    text = """
modells = 1
[workload]
arrival_cv = 9
weekend = 1
heavy_clients = 2.5
output_lengths = { log_median = nan }
[all_models]
rho = 0.5
elasticity = -1
released = 2026-01-15T00:00:00Z
[models."Llama-3.1-70B"]
rho = 1.6
cap = "x"
creator = 5
retired = "soon"
[models.DeepSeek-V3]
released = 2026-01-15
retired = 2026-01-15
[models.ours]
ttft_ref = 0.5
tps_ref = 90
[models.low]
ttft_ref = 0.0001
tps_ref = 90
cap = 12
rho = 0.4
batch_limit = 128
[[incidents]]
model = "unknown"
start = 2026-03-02T09:00:00Z
end = 2026-03-02T10:00:00Z
capacity_factor = 0.4
[[incidents]]
model = "ours"
start = 2026-03-02T09:00:00
capacity_factor = 0
[[incidents]]
model = "ours"
start = 2026-03-02T09:00:00Z
end = 2026-03-02T08:00:00Z
capacity_factor = 0.4
"""
    # A misspelt table does not hide problems in other tables.
    lines = problems(written(tmp_path, "p.toml", text))
    expected = [
        "modells is not a field of this table",
        "workload.output_lengths.log_median is nan: must be a number in [0, 14]",
        "workload.arrival_cv is 9: must be a number in [0.2, 5]",
        "workload.weekend is not a field of this table",
        "workload.heavy_clients is 2.5: must be an integer in [1, 20]",
        "all_models.rho is not a field of this table",
        "all_models.elasticity is -1: must be a number in [0, 1]",
        "all_models.released is 2026-01-15 00:00:00+00:00: must be a date such as 2026-07-10",
        "models.Llama-3.1-70B.cap is 'x': must be a number in (0, 10000]",
        "models.Llama-3.1-70B.rho is 1.6: must be a number in (0, 0.9]",
        "models.Llama-3.1-70B.creator is 5: must be a string",
        "models.Llama-3.1-70B.retired is 'soon': must be a date such as 2026-07-10",
        "models.DeepSeek-V3: retired is 2026-01-15, but must be after 2026-01-15",
        "models.ours.batch_limit is missing",
        "models.ours.cap is missing",
        "models.ours.rho is missing",
        "models.low: ttft_ref is 0.0001, but must be more than",
        "incidents.0.model is 'unknown': must be one of ",
        "incidents.1.start is 2026-03-02 09:00:00: must be a time with an offset from UTC, or Z",
        "incidents.1.end is missing",
        "incidents.1.capacity_factor is 0: must be a number in [0.01, 1]",
        "incidents.2.end is 2026-03-02 08:00:00+00:00: must be after start, ",
    ]
    assert len(lines) == len(expected)
    for problem in expected:
        assert any(line.startswith(problem) for line in lines), problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("workload: [1]", "workload is [1]: "),
        ("models: {a: 1}", "models.a is 1: "),
        ("models: {4: {rho: 0.5}}", "models.4: the name must be a string"),
        ("incidents: {model: a}", "incidents is {'model': 'a'}: "),
        ("all_models: 1", "all_models is 1: must be a table"),
        ("all_models: {name: other}", "all_models.name is not a field of this table"),
        ("all_models: {measured: 2026-07-10T00:00:00}", "all_models.measured is 2026-07-10 00:00"),
        ("models: {GPT-4o: {released: }}", "models.GPT-4o.released is None: must be a date such"),
        ("models: {GPT-4o: {measured: 20260710}}", "models.GPT-4o.measured is 20260710: must be"),
        ("incidents: [5]", "incidents.0 is 5: must be a table"),
        (
            (
                "incidents: [{model: [], start: 2026-03-02T09:00:00Z, end: 2026-03-02T10:00:00Z,"
                " capacity_factor: 1}]"
            ),
            "incidents.0.model is []: must be one of ",
        ),
        ("[]", "the file is []: "),
        ("workload: {output_lengths: {minimum: 1}}", "workload: output_lengths.minimum is 1"),
        ("workload: {input_lengths: {minimum: 9000}}", "workload.input_lengths: maximum is 8192"),
        ("workload: {input_lengths: 5}", "workload.input_lengths is 5: must be a table"),
        ("all_models: {workload: {}}", "all_models.workload is not a field of this table"),
        ("models: {GPT-4o: {workload: {rho: 1}}}", "models.GPT-4o.workload.rho is not a field"),
        ("models: {GPT-4o: {thinking: {}}}", "models.GPT-4o.thinking.tokens is missing"),
        (
            "models: {GPT-4o: {thinking: {tokens: {log_sd: 1, minimum: 1, maximum: 9}}}}",
            "models.GPT-4o.thinking.tokens.log_median is missing",
        ),
        ("models: {GPT-4o: {batch_limit: 2.5}}", "models.GPT-4o.batch_limit is 2.5: must be an"),
        ("models: {GPT-4o: {random_incidents: 1}}", "models.GPT-4o.random_incidents is 1: "),
        ("models: {GPT-4o: {name: other}}", "models.GPT-4o.name is not a field of this table"),
        ("workload: {name: other}", "workload.name is not a field of this table"),
        ("models: {GPT-4o: {slo: 2}}", "models.GPT-4o.slo is 2: must be a table"),
        ("workload: {slo: {ttft: 0}}", "workload.slo.ttft is 0: must be a number in (0, 3600]"),
        ("workload: {slo: {itl: 40 ms}}", "workload.slo.itl is '40 ms': must be a number"),
        ("all_models: {slo: {e2e: }}", "all_models.slo.e2e is None: must be a number in (0, 86400"),
        ("workloads: {code: {slo: {tpot: 1}}}", "workloads.code.slo.tpot is not a field of this"),
    ],
)
def test_problem_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (line,) = problems(written(tmp_path, "p.yaml", text))
    assert line.startswith(problem)


def test_too_long_name_is_refused(tmp_path: Path) -> None:
    name = "x" * 51
    text = f"models: {{{name}: {{ttft_ref: 1, tps_ref: 1, cap: 9, rho: 0.1, batch_limit: 1}}}}"
    (line,) = problems(written(tmp_path, "p.yaml", text))
    assert line == f"models.{name}: name is {name!r}, but must be a string of 1 to 50 characters"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("p.toml", b"a = ", "cannot be read: "),
        ("p.yaml", b"a: [", "cannot be read: "),
        ("p.yaml", b"all_models: {measured: 2026-13-01}", "cannot be read: month must be"),
        ("p.toml", b"\xff\xfe", "cannot be read: "),
        ("p.json", b"{}", "the name must end in .toml, .yaml or .yml"),
    ],
)
def test_unreadable_file_is_refused(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ProfilesFileError, match=rf"^{re.escape(str(path))}: {problem}"):
        read_profiles(path, ["GPT-4o"])


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfilesFileError, match=r"none\.toml: cannot be read: "):
        read_profiles(tmp_path / "none.toml", ["GPT-4o"])


@pytest.mark.parametrize(
    ("content", "model", "problem"),
    [
        (
            {"models": {"other": dict.fromkeys(REQUIRED_FIELDS, 0.5) | {"batch_limit": 1}}},
            "other",
            "batch_limit is 1, but must be at least ",
        ),
        ({"models": {"GPT-4o": {"batch_limit": 50}}}, "GPT-4o", "batch_limit is 50, but must be"),
        (
            {"all_models": {"prefill_share": 0.99, "slow_share": 0.5, "slow_median": 100}},
            "GPT-4o",
            "ttft_ref is 0.39, but must be more than ",
        ),
        (
            {"workload": {"output_lengths": {"log_median": 7}}},
            "GPT-4o",
            "batch_limit is 256, but must be at least ",
        ),
    ],
    ids=["new model", "built-in model", "all models", "workload"],
)
def test_model_without_solution_is_refused(
    content: dict[str, Any], model: str, problem: str
) -> None:
    with pytest.raises(ProfilesFileError) as caught:
        profiles_from(content, ["GPT-4o"], "fleet.toml")
    first, line = str(caught.value).split("\n  ")
    assert first == "fleet.toml:"
    assert line.startswith(f"models.{model}: {problem}")


def test_workload_is_named_by_its_class() -> None:
    content = {
        "workloads": {"support": {"input_lengths": {"log_median": 8.0}}},
        "models": {
            "GPT-4o": {"workload": "code"},
            "GPT-4o-mini": {"workload": "support"},
        },
    }
    profiles = profiles_from(content, ["GPT-4o", "GPT-4o-mini"], "the form")
    assert profiles["GPT-4o"].workload == WORKLOADS["code"]
    lengths = replace(Workload().input_lengths, log_median=8.0)
    assert profiles["GPT-4o-mini"].workload == replace(Workload(), input_lengths=lengths)


def test_limits_come_from_the_model_else_its_class() -> None:
    content: dict[str, Any] = {
        "workloads": {
            "support": {"slo": {"ttft": 1}},
            "code": {"slo": {"e2e": 60}},
            "batch": {"slo": {}},
            "plain": {"burst_sd": 0.3},
        },
        "models": {
            "GPT-4o": {"workload": "support"},
            "GPT-4o-mini": {"workload": "support", "slo": {"itl": 0.1}},
            "DeepSeek-V3": {"workload": "batch"},
            "Mistral-Large": {"workload": "plain"},
            "Llama-3.1-8B": {"slo": {}},
            "Llama-3.1-70B": {"workload": {"burst_sd": 0.3}},
        },
    }
    models = [*content["models"], "Kimi-K2.7-Code", "GPT-5.6-Sol-high", "unheard of"]
    profiles = profiles_from(content, models, "the form")
    assert {name: (one.workload.name, one.limits) for name, one in profiles.items()} == {
        "GPT-4o": ("support", Slo(ttft=1)),
        "GPT-4o-mini": ("support", Slo(itl=0.1)),
        "DeepSeek-V3": ("batch", Slo()),
        "Mistral-Large": ("plain", Workload().slo),
        "Llama-3.1-8B": ("chat-2023", Slo()),
        "Llama-3.1-70B": ("chat-2023", Workload().slo),
        # A table replaces all limits of a class, also for built-in models.
        "Kimi-K2.7-Code": ("code", Slo(e2e=60)),
        "GPT-5.6-Sol-high": ("reasoning", MODELS["GPT-5.6-Sol-high"].slo),
        "unheard of": ("chat-2023", Workload().slo),
    }


def test_limits_of_all_models_yield_to_those_of_one() -> None:
    content: dict[str, Any] = {
        "workload": {"slo": {"e2e": 20}},
        "all_models": {"slo": {"ttft": 1, "itl": 0.1}},
        "models": {"GPT-4o": {"slo": {"ttft": 0.5}}},
    }
    profiles = profiles_from(content, ["GPT-4o", "GPT-5.6-Sol-high"], "the form")
    assert profiles["GPT-4o"].limits == Slo(ttft=0.5)
    assert profiles["GPT-5.6-Sol-high"].limits == Slo(ttft=1, itl=0.1)
    assert {one.workload.slo for one in profiles.values()} == {Slo(e2e=20)}


def test_unknown_class_of_workload_is_named() -> None:
    content = {"models": {"GPT-4o": {"workload": "cod"}}}
    message = (
        r"models.GPT-4o.workload is 'cod': must be a table or one of chat, chat-2023, code,"
        r" reasoning"
    )
    with pytest.raises(ProfilesFileError, match=message):
        profiles_from(content, ["GPT-4o"], "the form")


def test_invalid_class_of_workload_is_refused() -> None:
    content = {"workloads": {"support": {"burst_sd": 7}}}
    with pytest.raises(ProfilesFileError, match=r"workloads.support.burst_sd is 7: must be"):
        profiles_from(content, ["GPT-4o"], "the form")
