"""Soak test: run the service for an hour, idle and busy; nothing may grow, and no window be lost.

    python -m benchmarks.soak [--minutes 60] [--json soak.json]

It starts the whole service as a user does, in a temporary directory, with nine models and a window
every ten seconds, and samples all its processes every ten seconds (`benchmarks/footprint.py`
describes the measures). The time is divided into twelve phases, of five minutes each in an hour.
They alternate:

idle  the normal load: each minute a tick, and its run of six windows of nine models.
busy  in addition, every half minute a run over an hour of history (3,240 windows), one at a time.

A consumer acknowledges messages all the time, and each minute a query loads the UI's data.

The first sixth of the time is a warm-up. The second sixth and the last sixth are compared; each has
one idle and one busy phase. Only samples without a run worker count. For each kind of process, the
minimum of memory and the median of the other measures may grow by at most 5 %, or 4 MiB of memory,
or two threads. Run workers are not compared, because they are short-lived; what they leave behind
shows in the other processes.

Two things grow by design up to a fixed size, and are not limited: PostgreSQL's shared buffers (128
MiB), and the files of its cluster that it keeps open. RabbitMQ keeps the latest log entries of a
quorum queue in memory until they fill a file, of the size that
`sim_pipeline/local_servers/rabbitmq.py` sets. Its memory rises and falls by that size; a busy phase
fills more than one file.

At the end, while the schedule still ticks, it waits until no work is left, and checks the feed:
every model has the same windows without gaps, both in the requested history and from an hour before
the start to now; each window has four rows and is published; and the received messages are those
of the ledger.

The exit status is 1 if anything grew or is missing. The test stops everything that it started, at
most twenty minutes after the requested time.
"""

import argparse
import json
import math
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

import pika
import sqlalchemy as sa

from benchmarks.footprint import MEASURES, Growth, Sample, growths, take_sample
from benchmarks.machine import header
from benchmarks.service_under_test import ServiceUnderTest
from sim_pipeline.config import DEFAULT_MODELS, Settings
from sim_pipeline.connections import results_database
from sim_pipeline.metrics import METRICS
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB, run_request
from sim_pipeline.store.ledger import Span
from sim_pipeline.windows import Cadence

_INTERVAL = timedelta(seconds=10)
_HOUR = timedelta(hours=1)
_LIMIT = 0.05
_SAMPLE_SECONDS = 10.0
_PHASES = 12
_COMPARED = 2  # phases: an idle and a busy one
_LOAD_SECONDS = 30.0
_SETTLE_SECONDS = 300.0
_SETTLE_POLL_SECONDS = 1.0
_OVERTIME = timedelta(minutes=20)
_MAX_MINUTES = 10_080  # a week
_PREFETCH = 500

_LAUNCH = """
mutation($selector: JobOrPipelineSelector!, $config: RunConfigData!, $tags: [ExecutionTag!]!) {
  launchRun(executionParams: {
    selector: $selector, runConfigData: $config, executionMetadata: {tags: $tags}
  }) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_UI_DATA = """
{
  runsOrError(limit: 25) { ... on Runs { results { runId status tags { key value } } } }
  assetNodes { assetKey { path } assetMaterializations(limit: 5) { runId timestamp } }
  schedulesOrError(repositorySelector: {
    repositoryName: "__repository__", repositoryLocationName: "sim_pipeline"
  }) { ... on Schedules { results { name scheduleState { status ticks(limit: 5) { status } } } } }
}
"""
_RUNS = """
query($statuses: [RunStatus!]!) {
  runsOrError(filter: {statuses: $statuses}) { ... on Runs { results { runId } } }
}
"""
_UNFINISHED = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
_FAILED = ("FAILURE", "CANCELED")


def main() -> int:
    """Run the soak test and print its results; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--minutes", type=_minutes, default=60.0, help="duration in minutes; default 60"
    )
    parser.add_argument("--json", type=Path, help="file for samples and results")
    arguments = parser.parse_args()
    duration = timedelta(minutes=arguments.minutes)

    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGALRM, _exit_on_signal)
    signal.setitimer(signal.ITIMER_REAL, (duration + _OVERTIME).total_seconds())

    print(header())
    with tempfile.TemporaryDirectory(prefix="sim_pipeline-soak-") as name:
        service = ServiceUnderTest(
            Path(name),
            {
                "llm_models": DEFAULT_MODELS,
                "simulation_interval": _INTERVAL.seconds,
                "simulation_start": _history_start(duration),
                "catch_up_hours": 1,
            },
        )
        with service, Consumer(service.settings) as consumer:
            samples, hours = _soak(service, consumer, duration)
            faults = _settle(service, consumer, hours)
            messages = len(consumer.received)
    results = _compare(samples, duration)
    _report(results, samples)
    for fault in faults:
        print(f"FAIL  {fault}")
    print(f"{messages} messages received, {hours} hours of history")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "machine": header(),
                    "minutes": arguments.minutes,
                    "messages": messages,
                    "faults": faults,
                    "growth": [asdict(result) for result in results],
                    "samples": [asdict(sample) for sample in samples],
                },
                indent=1,
            ),
            encoding="utf-8",
        )
    passed = not faults and all(result.passed for result in results)
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= _MAX_MINUTES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed is a number of minutes above 0 and at most {_MAX_MINUTES}"
        )
    return minutes


class Consumer:
    """Consumes the queue in its own thread.

    Attributes:
        received: how often each message_id was received.
        error: the error that ended the thread, if any.
    """

    def __init__(self, settings: Settings) -> None:
        self.received: defaultdict[str, int] = defaultdict(int)
        self.error: Exception | None = None
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def require_running(self) -> None:
        """Raise RuntimeError if the consumer has failed."""
        if self.error is not None:
            raise RuntimeError("the consumer failed") from self.error

    def _run(self) -> None:
        try:
            self._await_first_delivery()
            self._consume()
        except Exception as error:  # noqa: BLE001 - `require_running` raises it again
            self.error = error

    def _await_first_delivery(self) -> None:
        """Wait until the publisher has declared the queue; consuming earlier would be an error."""
        engine = results_database(self._settings).engine
        published = sa.text("SELECT count(*) FROM deliveries WHERE published_at IS NOT NULL")
        try:
            while not self._stop.wait(1.0):
                with engine.connect() as connection:
                    if connection.scalar(published):
                        return
        finally:
            engine.dispose()

    def _consume(self) -> None:
        parameters = pika.ConnectionParameters(
            self._settings.rabbitmq_host,
            self._settings.rabbitmq_port,
            self._settings.rabbitmq_vhost,
            pika.PlainCredentials(
                self._settings.rabbitmq_user, self._settings.rabbitmq_password.get_secret_value()
            ),
        )
        if self._stop.is_set():
            return
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=_PREFETCH)
            for method, properties, _ in channel.consume(
                self._settings.rabbitmq_queue, inactivity_timeout=0.5
            ):
                if method is not None and properties is not None:
                    self.received[str(properties.message_id)] += 1
                    channel.basic_ack(method.delivery_tag or 0)
                if self._stop.is_set():
                    return


class Load:
    """Launches runs over consecutive hours of history, one at a time.

    Attributes:
        hours: the number of launched runs, of an hour each.
    """

    def __init__(self, service: ServiceUnderTest) -> None:
        self.hours = 0
        self._service = service
        self._cadence = Cadence(
            service.settings.simulation_interval, service.settings.simulation_start
        )
        self._launched = float("-inf")

    def launch_if_due(self) -> None:
        """Launch the next run if it is due and no other run is unfinished."""
        if time.monotonic() - self._launched < _LOAD_SECONDS or _runs(self._service, _UNFINISHED):
            return
        self._launched = time.monotonic()
        settings = self._service.settings
        since = settings.simulation_start + self.hours * _HOUR
        request = run_request(Span(settings.llm_models, since, since + _HOUR), self._cadence)
        answer = self._service.graphql(
            _LAUNCH,
            {
                "selector": {
                    "repositoryLocationName": "sim_pipeline",
                    "repositoryName": "__repository__",
                    "jobName": SIMULATION_JOB,
                },
                "config": request.run_config,
                "tags": [{"key": key, "value": value} for key, value in request.tags.items()],
            },
        )["launchRun"]
        if "run" not in answer:
            raise RuntimeError(f"a run was not launched: {answer}")
        self.hours += 1


def _soak(
    service: ServiceUnderTest, consumer: Consumer, duration: timedelta
) -> tuple[list[Sample], int]:
    """Take samples for the duration; return them and the hours of history that were launched."""
    load = Load(service)
    samples: list[Sample] = []
    begin = time.monotonic()
    phase = duration.total_seconds() / _PHASES
    seconds, minute = 0.0, 0
    while seconds < duration.total_seconds():
        service.require_running()
        consumer.require_running()
        samples.append(take_sample(service.directory, service.process, seconds))
        busy = int(seconds // phase) % 2 == 1
        if busy:
            load.launch_if_due()
        if seconds >= minute * 60:
            service.graphql(_UI_DATA)
            _progress(samples[-1], busy=busy, messages=len(consumer.received))
            minute += 1
        # Waits for the next sample; there is no condition to wait for.
        due = begin + len(samples) * _SAMPLE_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))
        seconds = time.monotonic() - begin
    return samples, load.hours


def _settle(service: ServiceUnderTest, consumer: Consumer, hours: int) -> list[str]:
    """Wait until no work is left; return the faults of the feed."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        consumer.require_running()
        faults = [] if _runs(service, _UNFINISHED) else _faults(service, consumer, hours)
        if faults == [] and not _runs(service, _UNFINISHED):
            break
        if time.monotonic() > deadline:
            faults = faults or ["runs were still unfinished at the end"]
            break
        # Polls: neither server announces that no work is left.
        time.sleep(_SETTLE_POLL_SECONDS)
    failed = len(_runs(service, _FAILED))
    return [*faults, *([f"{failed} runs failed"] if failed else [])]


def _faults(service: ServiceUnderTest, consumer: Consumer, hours: int) -> list[str]:
    """Compare results, ledger and received messages; return the differences."""
    settings = service.settings
    engine = results_database(settings).engine
    with engine.connect() as connection:
        stored = connection.execute(
            sa.text('SELECT llm_name, "timestamp", count(*) FROM simulation_results GROUP BY 1, 2')
        ).all()
        ledger = connection.execute(
            sa.text('SELECT llm_name, "timestamp", message_id, published_at FROM deliveries')
        ).all()
    engine.dispose()

    faults = []
    if any(rows != len(METRICS) for _, _, rows in stored):
        faults.append("some windows do not have four rows")
    if {(model, window_start) for model, window_start, _ in stored} != {row[:2] for row in ledger}:
        faults.append("results and ledger have different windows")
    if pending := sum(published is None for *_, published in ledger):
        faults.append(f"{pending} windows are not published")
    ids = {str(message_id) for _, _, message_id, _ in ledger}
    received = set(consumer.received)
    if ids != received:
        faults.append(f"{len(ids - received)} messages missing, {len(received - ids)} unknown")
    if repeated := sum(times - 1 for times in consumer.received.values()):
        faults.append(f"{repeated} messages received more than once")

    for model in DEFAULT_MODELS:
        window_starts = sorted(row[1] for row in ledger if row[0] == model)
        gaps = _gaps(window_starts, settings.simulation_start, hours)
        faults += [f"{model}: {gap}" for gap in gaps]
    return faults


def _gaps(window_starts: Sequence[datetime], history: datetime, hours: int) -> list[str]:
    """Describe the missing windows of a model, in the history and then up to now."""
    past = int(hours * _HOUR / _INTERVAL)
    expected = [history + window * _INTERVAL for window in range(past)]
    if list(window_starts[:past]) != expected:
        return ["history has gaps"]
    recent = window_starts[past:]
    if not recent or recent[-1] < datetime.now(UTC) - timedelta(minutes=2):
        return ["the latest windows are missing"]
    breaks = [later for earlier, later in pairwise(recent) if later - earlier != _INTERVAL]
    return [f"{len(breaks)} gaps, the first one before {breaks[0]}"] if breaks else []


def _runs(service: ServiceUnderTest, statuses: Sequence[str]) -> list[str]:
    answer = service.graphql(_RUNS, {"statuses": list(statuses)})
    return [run["runId"] for run in answer["runsOrError"]["results"]]


def _history_start(duration: timedelta) -> datetime:
    """Return a full hour, early enough that the history ends at least a day before now."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return hour - timedelta(hours=24 + duration / timedelta(seconds=_LOAD_SECONDS))


def _compare(samples: Sequence[Sample], duration: timedelta) -> list[Growth]:
    compared = duration.total_seconds() / _PHASES * _COMPARED
    end = duration.total_seconds()
    return growths(
        [sample for sample in samples if compared <= sample.seconds < 2 * compared],
        [sample for sample in samples if end - compared <= sample.seconds],
        _LIMIT,
    )


def _progress(sample: Sample, *, busy: bool, messages: int) -> None:
    everything = sample.footprint["all"]
    print(
        f"minute {sample.seconds / 60:3.0f}  {'busy' if busy else 'idle'}  "
        + "  ".join(f"{name} {everything[name]:.0f}" for name in MEASURES)
        + f"  messages {messages}",
        flush=True,
    )


def _report(results: Sequence[Growth], samples: Sequence[Sample]) -> None:
    idle = sum(sample.idle for sample in samples)
    print(f"{len(samples)} samples, {idle} of them without a run")
    print(f"{'':14}{'':13}{'early':>9}{'end':>9}{'growth':>9}")
    for result in results:
        print(
            f"{result.kind:14}{result.measure:13}{result.early:9.1f}{result.late:9.1f}"
            f"{result.fraction:9.1%}  {_verdict(result)}"
        )


def _verdict(result: Growth) -> str:
    if math.isinf(result.limit):
        return "not limited"
    return "PASS" if result.passed else "FAIL"


def _exit_on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    # Ignore further signals, so that the cleanup completes.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(f"aborted by {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main())
