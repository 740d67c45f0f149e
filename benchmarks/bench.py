"""Every benchmark, one after the other: a table for people, and the same as JSON.

    python -m benchmarks.bench [--quick] [--json bench.json] [NAME ...]

Each runs in a process of its own, with servers of its own. The table goes to standard output as
Markdown, and so does what each has found as soon as it has; the JSON is written anew after each, so
that what was measured stays when a later one fails. Exit status: 0 if every limit was kept, 1 if
one was not or a benchmark failed, 130 if it was interrupted.
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

# Modules of this package, in the order they run: those that take longest come last.
BENCHMARKS = (
    "simulate",
    "store",
    "publish",
    "tick",
    "comparison",
    "live_feed",
    "curves",
    "status",
    "backfill",
)
_INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Measure, print and write; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that they work")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="file to write")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}: allowed are {', '.join(BENCHMARKS)}")
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
                # What is too small says nothing of a limit.
                rows.append(replace(row, limit=None) if quick else row)
                _say(markdown(rows[-1:]).splitlines()[-1])
        except RuntimeError as error:
            failed.append(name)
            _say(f"{name} failed: {error}")
        _say(f"{name}: {time.monotonic() - start:.0f} s")
        found = {
            "began": began.isoformat(),
            "quick": quick,
            "machine": machine(),
            "versions": package_versions() | servers,
            "bytecode_is_cached": bytecode_is_cached(),
            "failed": failed,
            "benchmarks": {one: [row.as_json() for row in some] for one, some in results.items()},
        }
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    rows = [row for some in results.values() for row in some]
    print(f"{header()}, {', '.join(f'{server} {number}' for server, number in servers.items())}")
    print(f"{began:%Y-%m-%d}; medians of n measurements, in brackets the smallest and the largest")
    if not bytecode_is_cached():
        print("Python's bytecode is not cached: each process compiles what it imports.")
    if quick:
        print("Quick: the sizes are too small for the figures to mean anything.")
    print(f"\n{markdown(rows)}")
    missed = [row.what for row in rows if row.passed is False]
    for what in missed:
        _say(f"limit missed: {what}")
    return 1 if failed or missed else 0


def _measured(name: str, *, quick: bool) -> Iterator[Row]:
    """Run a benchmark in a process of its own.

    Raises:
        RuntimeError: it failed; what it said is on standard error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(name, quick, sender), name=name)
    process.start()
    # So that the end of the process is the end of what can be received.
    sender.close()
    try:
        while (row := receiver.recv()) is not None:
            yield row
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with status {process.exitcode}") from None
    except BaseException:
        process.terminate()
        raise
    finally:
        # It ends its servers first.
        process.join()


def _work(name: str, quick: bool, sender: Connection) -> None:  # noqa: FBT001 - a process's target
    _interrupt_once()
    for row in import_module(f"benchmarks.{name}").measure(quick=quick):
        sender.send(row)
    sender.send(None)


def _interrupt_once() -> None:
    """Take SIGTERM for Ctrl-C, and only the first of them: what it ends must end undisturbed."""

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
