"""The command `fit`: the files it writes, its report, its errors, and the use of the profile."""

import json
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sim_pipeline.backfill.request import read_request
from sim_pipeline.cli import main
from sim_pipeline.config import read_settings
from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.fit.loads import METRICS
from sim_pipeline.fit.profile_file import to_toml
from sim_pipeline.fit.solve import fit_profile
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.profiles_file import read_profiles
from sim_pipeline.what_if.form import WhatIf, read_form
from sim_pipeline.what_if.simulate import simulate_scenario
from sim_pipeline.windows import Cadence
from sim_pipeline_tests.fit.samples import SAMPLES
from sim_pipeline_tests.fit.simulated_loads import measure

pytestmark = pytest.mark.usefixtures("clean_environment")

NAME = 'ours/"8B"'
SAMPLE = SAMPLES / "vllm_append.jsonl"
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: object, status: int = 0) -> None:
    code: object = 0
    try:
        code = main(["fit", *map(str, arguments)])
    except SystemExit as exit_:
        code = exit_.code
    assert code == status


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    run(*arguments, status=2)
    return capsys.readouterr().err.splitlines()[-1]


def measured_at(time: datetime, folder: Path) -> Path:
    """Copy the sample with a date of its own: the profile's figures are of that day."""
    source = folder / SAMPLE.name
    source.write_bytes(SAMPLE.read_bytes())
    os.utime(source, (time.timestamp(), time.timestamp()))
    return source


def test_profile_and_plot_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = measured_at(datetime(2026, 3, 4, 12, tzinfo=UTC), tmp_path)
    run(source, "--name", NAME, "--output", tmp_path / "fitted.toml")

    profile = read_profiles(tmp_path / "fitted.toml", [NAME])[NAME]
    assert profile.source == "fitted to vLLM"
    assert profile.measured == datetime(2026, 3, 4, tzinfo=UTC).date()
    assert (tmp_path / "fitted.png").read_bytes().startswith(PNG)
    report = capsys.readouterr().out
    assert f"{source}: result 2: vLLM, 198 requests, 7.92 requests/s" in report
    assert "TTFT p50 [s]" in report
    assert "TPS p01" not in report
    assert f"MODEL_PROFILES_FILE={tmp_path / 'fitted.toml'}" in report
    assert f'make backfill MODELS="{NAME}"' in report
    # Neither settings nor logs are needed.
    assert {path.name for path in tmp_path.iterdir()} == {
        source.name,
        "fitted.toml",
        "fitted.png",
    }


def test_default_output_is_named_after_the_model(tmp_path: Path) -> None:
    run(SAMPLE, "--name", NAME)
    assert (tmp_path / 'ours-"8B".toml').exists()


def test_file_says_where_its_numbers_come_from() -> None:
    points = measure(MODELS["GPT-4o"], (0.3, 0.5, 0.75))
    fit = fit_profile(points, name="ours", measured=datetime(2026, 7, 10, tzinfo=UTC).date())
    text = to_toml(fit)
    (written,) = tomllib.loads(text)["models"].values()
    assert written.keys() >= {"measured", "source", *("ttft_ref", "tps_ref", "cap", "rho")}
    lines = {line.partition(" = ")[0]: line for line in text.splitlines()}
    assert lines["cap"].endswith("# fitted: the rise of TTFT with the rate: the wait for prefill")
    assert "# - rho 0.3: simulator, 4000 requests, 6 requests/s" in text
    assert lines["output_lengths"].endswith("# fitted: requests")
    assert {quantile.metric for quantile in fit.quantiles} == set(METRICS)


def test_file_holds_the_fitted_profile(tmp_path: Path) -> None:
    points = measure(MODELS["GPT-4o"], (0.45,))
    day = datetime(2026, 7, 10, tzinfo=UTC).date()
    fit = fit_profile(points, name="ours\x7f", measured=day)
    path = tmp_path / "ours.toml"
    path.write_text(to_toml(fit), encoding="utf-8")
    read = read_profiles(path, ["ours\x7f"])["ours\x7f"]
    for name, value in vars(fit.profile).items():
        if name != "source":
            assert getattr(read, name) == value, name


def test_seed_changes_the_simulated_requests(tmp_path: Path) -> None:
    run(SAMPLE, "--name", "a", "--output", "1.toml")
    run(SAMPLE, "--name", "a", "--output", "2.toml")
    run(SAMPLE, "--name", "a", "--output", "3.toml", "--seed", "7")
    first, second, third = ((tmp_path / f"{n}.toml").read_text("utf-8") for n in (1, 2, 3))
    assert first == second
    assert first != third


# Errors


@pytest.mark.parametrize("name", ["ours.toml", "ours.png"])
def test_existing_file_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    message = error_of(capsys, SAMPLE, "--name", "ours")
    assert message == f"{name} exists: give another --output, or --force to replace it"
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"
    run(SAMPLE, "--name", "ours", "--force")
    assert (tmp_path / "ours.png").read_bytes().startswith(PNG)


def test_unusable_input_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "none.json", "--name", "a") == (
        "none.json: cannot be read: No such file or directory"
    )
    result = {"completed": 5, "request_throughput": 1.0, "duration": 5.0, "median_ttft_ms": 100.0}
    (tmp_path / "a.json").write_text(json.dumps(result), encoding="utf-8")
    assert error_of(capsys, "a.json", "--name", "a").startswith("a.json: tps is missing: ")
    assert error_of(capsys, SAMPLE, "--name", "a", "--output", "a.yaml") == (
        "--output is a.yaml: must end in .toml"
    )
    assert error_of(capsys, SAMPLE, "--name", "a", "--output", "none/a.toml") == (
        "none/a.toml: cannot be written: No such file or directory"
    )


@pytest.mark.parametrize("name", ["", "a,b", "a|b", " a", "x" * 51, "a\nb"])
def test_name_that_the_service_refuses_is_refused(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert "allowed are 1 to 50 printable" in error_of(capsys, SAMPLE, "--name", name)


@pytest.mark.parametrize("argument", ["--seed=-1", "--seed=x", "--batch-limit=0"])
def test_invalid_number_is_refused(capsys: pytest.CaptureFixture[str], argument: str) -> None:
    assert "allowed is a whole number" in error_of(capsys, SAMPLE, "--name", "a", argument)


def test_command_runs_in_a_process_without_matplotlib_until_it_draws() -> None:
    code = "import sys, sim_pipeline.fit.command; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# Use of the profile


def test_fitted_profile_is_used_by_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Days before the windows that the what-if simulates: no shift comes between.
    run(measured_at(datetime(2026, 1, 31, 12, tzinfo=UTC), tmp_path), "--name", "ours")
    file = tmp_path / "ours.toml"
    monkeypatch.setenv("LLM_MODELS_STR", "GPT-4o,ours")
    monkeypatch.setenv("MODEL_PROFILES_FILE", str(file))
    for name in ("POSTGRES", "RABBITMQ"):
        monkeypatch.setenv(f"{name}_HOST", "localhost")
        monkeypatch.setenv(f"{name}_USER", "user")
        monkeypatch.setenv(f"{name}_PASSWORD", "password")
    settings = read_settings()
    profiles = read_profiles(settings.model_profiles_file, settings.llm_models)
    assert profiles["GPT-4o"] == MODELS["GPT-4o"]
    assert profiles["ours"].source == "fitted to vLLM"

    cadence = Cadence(3600, datetime(2026, 1, 1, tzinfo=UTC))
    now = datetime(2026, 2, 1, tzinfo=UTC)
    request = read_request(None, None, "ours", known=settings.llm_models, cadence=cadence, now=now)
    assert request.llm_names == ("ours",)

    inputs = SimulationInputs(cadence=cadence, points=5, seed=42, profiles_file=None)
    form = WhatIf.model_validate({"profiles_file": str(file), "models": ["ours"]})
    outcome = simulate_scenario(read_form(form, inputs, settings.llm_models, now))
    # Without the file, the profile comes from the name.
    assert (outcome.candidate.percentiles != outcome.baseline.percentiles).all()
    tps = outcome.candidate.percentiles[0, 1, 0]
    assert tps == pytest.approx(profiles["ours"].tps_ref, rel=0.3)
