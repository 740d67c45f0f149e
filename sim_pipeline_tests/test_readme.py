"""What the README shows is true: its consumer reads messages, its tables name what there is."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sim_pipeline.broker.message import OutgoingMessage, encode, message_id
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.config import Settings, variable_name
from sim_pipeline.metrics import METRICS
from sim_pipeline.resources import RunScope, message_broker

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_consumer_prints_each_simulation_once(settings: Settings, tmp_path: Path) -> None:
    (consumer,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    script = tmp_path / "consumer.py"
    script.write_text(consumer, encoding="utf-8")
    label = datetime(2026, 11, 20, tzinfo=UTC)
    values = np.arange(8.0).reshape(4, 2)
    messages = [
        OutgoingMessage(message_id(name, label, "f"), encode(name, label, values))
        for name in ("one", "one", "two")
    ]
    with Publisher(message_broker(settings)) as publisher:
        publisher.publish(messages[:2])
        publisher.publish(messages[2:])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, **settings.environment()},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(8)]
        process.kill()
    assert [line[:2] for line in lines] == [
        [name, metric] for name in ("one", "two") for metric in METRICS
    ]
    assert lines[0][2:] == ["2026-11-20T00:00:00.000000Z", "[0.0,", "1.0]"]


def test_every_setting_and_no_other_is_in_the_table() -> None:
    table = README.partition("## Settings")[2].partition("### ")[0]
    names = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([A-Z][A-Z_]+)`", row.split("|")[1])
    }
    assert names == {variable_name(name) for name in Settings.model_fields}


def test_every_field_of_a_runs_scope_is_in_the_table() -> None:
    table = README.partition("under `resources: scope: config`")[2].partition("## ")[0]
    names = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert names == set(RunScope.model_fields)


def test_every_make_target_it_names_exists() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z0-9-]+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
