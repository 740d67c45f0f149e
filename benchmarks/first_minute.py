"""From a fresh clone to *Ready*, by phase, and a second start.

The clone is that of this checkout's last commit. uv's cache is empty, so the packages come from the
index of this machine. RabbitMQ must be installed.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.figures import Limit, Row
from sim_pipeline.local_servers.ports import free_port

ROOT: Final = Path(__file__).parents[1]

# A phase ends with the first line that contains its text; it begins where the one before ends.
PHASES: Final = (
    ("installation", "Starting "),
    ("servers and migrations", "Starting Dagster"),
    ("code server, daemon and UI", "Simulating the last "),
    ("eight days simulated, stored and published", "Published "),
    ("comparison and report", "Ready."),
)
_RUNS = 3
# No result on a machine that works takes longer.
_SECONDS = 600.0


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure first and second starts.

    Args:
        quick: one of each, of two models.
    """
    runs = 1 if quick else _RUNS
    first: list[list[float]] = []
    second: list[float] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="sim_pipeline-first-") as directory:
            clone = Path(directory) / "clone"
            cloning = ("git", "clone", "--quiet", str(ROOT), str(clone))
            subprocess.run(cloning, check=True)  # noqa: S603 - our own command
            _write_env(clone, quick=quick)
            first.append(_start(clone, [text for _, text in PHASES]))
            second += _start(clone, ["Ready."])
    ends = [[0.0, *each] for each in first]
    for index, (phase, _) in enumerate(PHASES):
        lengths = tuple(each[index + 1] - each[index] for each in ends)
        yield Row(f"first start: {phase}", "s", lengths)
    yield Row(
        "first start, clone to Ready", "s", tuple(each[-1] for each in first), limit=Limit(60)
    )
    yield Row("second start, to Ready", "s", tuple(second), limit=Limit(8))


def _start(clone: Path, texts: list[str]) -> list[float]:
    """Run `make run` until it is ready, stop it, and return when each text was printed [s].

    Raises:
        RuntimeError: it ended before, or took longer than ten minutes.
    """
    environment = {**os.environ, "UV_CACHE_DIR": str(clone.parent / "uv"), "PYTHON": sys.executable}
    began = time.monotonic()
    times: list[float] = []
    lines: list[str] = []
    with subprocess.Popen(
        ["make", "run"],  # noqa: S607 - the user's
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            while len(times) < len(texts) and texts[len(times)] in line:
                times.append(time.monotonic() - began)
            if len(times) == len(texts) or time.monotonic() > began + _SECONDS:
                break
        os.killpg(process.pid, signal.SIGINT)
        lines += process.stdout or ()
    if len(times) < len(texts):
        raise RuntimeError(f"make run did not print {texts[len(times)]!r}:\n{''.join(lines[-20:])}")
    return times


def _write_env(clone: Path, *, quick: bool) -> None:
    """Write the clone's `.env`: that of `make run`, on free ports."""
    changed: dict[str, object] = {
        "POSTGRES_PORT": free_port(),
        "POSTGRES_PASSWORD": secrets.token_urlsafe(),
        "RABBITMQ_PORT": free_port(),
        "RABBITMQ_PASSWORD": secrets.token_urlsafe(),
        "UI_PORT": free_port(),
    }
    if quick:
        changed["LLM_MODELS_STR"] = "GPT-4o,Llama-3.1-70B"
    sample = (clone / ".env.sample").read_text(encoding="utf-8").splitlines()
    kept = [line for line in sample if line.split("=")[0] not in changed]
    lines = [*kept, *(f"{name}={value}" for name, value in changed.items())]
    (clone / ".env").touch(mode=0o600)
    (clone / ".env").write_text("\n".join(lines) + "\n", encoding="utf-8")
