"""The examples and the options of docs/scoring.md."""

import re
from pathlib import Path

import pytest

from sim_pipeline.cli import main
from sim_pipeline.scoring.reading import read_alarms
from sim_pipeline.scoring.score import SIZES

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(found)


def test_examples_are_read() -> None:
    models = ("GPT-4o", "DeepSeek-V3")
    of_csv, of_json = (
        read_alarms("example", block(language).encode(), llm_names=models)
        for language in ("csv", "json")
    )
    assert len(of_csv) == 3
    assert of_json == of_csv[:1]


def test_options_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `--")]
    assert set(re.findall(r"--[a-z-]+", "".join(rows))) == options


def test_size_classes_are_documented() -> None:
    small, medium, large = (f"{SIZES[name]:g}" for name in ("small", "medium", "large"))
    assert (
        f"small is a factor below {small}, up or down, medium below {medium}, large below {large},"
        " and severe beyond"
    ) in " ".join(PAGE.split())
