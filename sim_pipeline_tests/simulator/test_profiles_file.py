"""MODEL_PROFILES_FILE: what it changes, and how errors name its problems."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sim_pipeline.simulator.profiles import DERIVED, MODELS, Incident, Workload
from sim_pipeline.simulator.profiles_file import ProfilesFileError, read_profiles

TOML = """
[workload]
arrival_cv = 2
output_lengths = { log_median = 5.5, maximum = 4096 }

[models."Llama-3.1-70B"]
rho = 0.6

[models.ours]
ttft_ref = 0.5
tps_ref = 90
cap = 12
rho = 0.4
batch_limit = 128
source = "our load test"
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
  output_lengths: {log_median: 5.5, maximum: 4096}
models:
  Llama-3.1-70B: {rho: 0.6}
  ours:
    ttft_ref: 0.5
    tps_ref: 90
    cap: 12
    rho: 0.4
    batch_limit: 128
    source: our load test
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
def test_models_workload_and_incidents_are_read(tmp_path: Path, name: str, text: str) -> None:
    models = ["ours", "Llama-3.1-70B", "GPT-4o", "unheard of"]
    profiles = read_profiles(written(tmp_path, name, text), models)
    assert list(profiles) == models

    usual = Workload()
    for profile in profiles.values():
        workload = profile.workload
        assert workload.arrival_cv == 2
        assert workload.output_lengths.log_median == 5.5
        assert workload.output_lengths.maximum == 4096
        assert workload.output_lengths.log_sd == usual.output_lengths.log_sd
        assert workload.input_lengths == usual.input_lengths
        assert workload.peak_hour == usual.peak_hour

    llama = profiles["Llama-3.1-70B"]
    assert (llama.rho, llama.cap) == (0.6, MODELS["Llama-3.1-70B"].cap)
    assert llama.source == f"from {name}"
    ours = profiles["ours"]
    assert (ours.ttft_ref, ours.tps_ref, ours.cap, ours.batch_limit) == (0.5, 90, 12, 128)
    assert ours.source == "our load test"
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


def test_one_error_names_all_problems(tmp_path: Path) -> None:
    text = """
modells = 1
[workload]
arrival_cv = 9
weekend = 1
output_lengths = { log_median = nan }
[models."Llama-3.1-70B"]
rho = 1.6
cap = "x"
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
        "models.Llama-3.1-70B.cap is 'x': must be a number in (0, 10000]",
        "models.Llama-3.1-70B.rho is 1.6: must be a number in (0, 0.9]",
        "models.ours needs batch_limit, cap, rho: it is not built in",
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
        ("[]", "the file is []: "),
        ("workload: {output_lengths: {minimum: 1}}", "workload: output_lengths.minimum is 1"),
        ("workload: {input_lengths: {minimum: 9000}}", "workload: maximum is 8192, but must be"),
        ("models: {GPT-4o: {batch_limit: 2.5}}", "models.GPT-4o.batch_limit is 2.5: must be an"),
        ("models: {GPT-4o: {random_incidents: 1}}", "models.GPT-4o.random_incidents is 1: "),
        ("models: {GPT-4o: {name: other}}", "models.GPT-4o.name is not a field of this table"),
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
