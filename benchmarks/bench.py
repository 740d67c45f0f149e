"""Run all benchmarks, print a table, and write the results as JSON.

    python -m benchmarks.bench [--quick] [--json bench.json] [NAME ...]

Each benchmark runs in its own process with its own servers. Progress and single results go to
standard error, the Markdown table to standard output. The JSON file is written again after each
benchmark, so that results survive a later failure. Exit status: 0 if every limit is met, 1 if a
limit is missed or a benchmark fails, 130 if interrupted.
"""

import argparse
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.figures import Row, markdown
from benchmarks.machine import (
    bytecode_is_cached,
    header,
    machine,
    package_versions,
    server_versions,
)

# Modules of this package in the order they run: the longest ones come last.
BENCHMARKS = (
    "simulate",
    "store",
    "publish",
    "tick",
    "comparison",
    "intervals",
    "live_feed",
    "curves",
    "status",
    "first_minute",
    "backfill",
)
_INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Run the benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small sizes, as a smoke test")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="file to write")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {', '.join(unknown)}: allowed are {', '.join(BENCHMARKS)}")
    _interrupt_once()
    try:
        return _run(arguments.names or BENCHMARKS, arguments.json, quick=arguments.quick)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(names: Sequence[str], file: Path, *, quick: bool) -> int:
    began, servers = datetime.now(UTC), server_versions()
    results: dict[str, list[Row]] = {}
    failed = []
    for name in names:
        start = time.monotonic()
        _say(f"{name} ...")
        rows = results[name] = []
        try:
            for row in _measured(name, quick=quick):
                # Limits do not apply to small sizes.
                rows.append(replace(row, limit=None) if quick else row)
                _say(markdown(rows[-1:]).splitlines()[-1])
        except RuntimeError as error:
            failed.append(name)
            _say(f"{name} failed: {error}")
        _say(f"{name}: {time.monotonic() - start:.0f} s")
        report = {
            "began": began.isoformat(),
            "quick": quick,
            "machine": machine(),
            "versions": package_versions() | servers,
            "bytecode_is_cached": bytecode_is_cached(),
            "failed": failed,
            "benchmarks": {key: [row.as_json() for row in found] for key, found in results.items()},
        }
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    rows = [row for found in results.values() for row in found]
    print(f"{header()}, {', '.join(f'{server} {number}' for server, number in servers.items())}")
    print(f"{began:%Y-%m-%d}; medians of n measurements, with smallest and largest in brackets")
    if not bytecode_is_cached():
        print("Python's bytecode is not cached: each process compiles its imports.")
    if quick:
        print("Quick run: the sizes are too small for meaningful figures.")
    print(f"\n{markdown(rows)}")
    missed = [row.what for row in rows if row.passed is False]
    for what in missed:
        _say(f"limit missed: {what}")
    return 1 if failed or missed else 0


def _measured(name: str, *, quick: bool) -> Iterator[Row]:
    """Run a benchmark in its own process, and yield its rows.

    Raises:
        RuntimeError: the benchmark failed; its error is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_in_process, args=(name, quick, sender), name=name)
    process.start()
    # Without our copy of the sending end, the end of the process raises EOFError here.
    sender.close()
    try:
        while (row := receiver.recv()) is not None:
            yield row
    except EOFError:
        process.join()
        raise RuntimeError(f"its process exited with status {process.exitcode}") from None
    except BaseException:
        process.terminate()
        raise
    finally:
        # The process stops its servers before it ends.
        process.join()


def _run_in_process(name: str, quick: bool, sender: Connection) -> None:  # noqa: FBT001 - a process's target
    _interrupt_once()
    for row in import_module(f"benchmarks.{name}").measure(quick=quick):
        sender.send(row)
    sender.send(None)


def _interrupt_once() -> None:
    """Treat SIGTERM as Ctrl-C, and ignore further signals, so that the cleanup completes."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
