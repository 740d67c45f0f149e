"""The service for an hour, idle and busy: nothing may grow, and the feed must be whole.

    python -m benchmarks.soak [--minutes 60] [--json soak.json]

Starts the whole service as a user does, in a temporary directory, with nine models and a window
every ten seconds, and looks at all its processes every ten seconds (`benchmarks/footprint.py` says
at what). The time is cut into twelve stretches, of five minutes in an hour, by turns:

idle  the ordinary pace: each minute a tick and its run of six windows of nine models.
busy  the same, and every half minute a run over an hour of history, 3,240 windows, one at a time.

A consumer takes and acknowledges all along, and each minute somebody looks at the UI.

The first sixth of the time warms up. The second sixth, an idle and a busy stretch, is compared
with the last, an idle and a busy stretch too, over the samples at which no run worker lives, for
each kind of process and measure: the least of memory, the median of the rest. None may grow by more
than 5 %, or 4 MiB of memory, or two threads. Run workers are not compared: they come and go, and
what they leave behind shows with the others.

What grows by design, up to a fixed size, and is therefore not limited: PostgreSQL's shared buffers
(128 MiB), and the files of its cluster that it keeps open. Nothing else is. RabbitMQ keeps a quorum
queue's latest log entries in memory until it has a file full of them, of the size that
`sim_pipeline/local_servers/rabbitmq.py` sets: its memory rises and falls by that much, and a busy
stretch fills more than one.

Then, with the schedule still ticking, it waits for a moment with nothing left to do and counts:
every model has the same windows without a gap, from the first hour of history to the last that
was asked for and from an hour before the start to now; each has four rows and is published; and
what the consumer received is what the ledger holds.

Exit status 1 if anything grew or is missing. Ends all it started, at the latest twenty minutes
after the time asked for.
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
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.orchestration.jobs.simulation_schedule import run_request
from sim_pipeline.store.ledger import Span
from sim_pipeline.windows import Cadence

_INTERVAL = timedelta(seconds=10)
_HOUR = timedelta(hours=1)
_LIMIT = 0.05
_SAMPLE_SECONDS = 10.0
_STRETCHES = 12
_COMPARED = 2  # stretches: an idle and a busy one
_LOAD_SECONDS = 30.0
_SETTLE_SECONDS = 300.0
_SETTLE_LOOK_SECONDS = 1.0
_OVERTIME = timedelta(minutes=20)
_MOST_MINUTES = 10_080  # a week
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
_LOOK = """
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
    """Soak the service and print what came of it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--minutes", type=_minutes, default=60.0, help="how long, 60 by default")
    parser.add_argument("--json", type=Path, help="file to write samples and results to")
    arguments = parser.parse_args()
    duration = timedelta(minutes=arguments.minutes)

    signal.signal(signal.SIGTERM, _give_up)
    signal.signal(signal.SIGALRM, _give_up)
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
    if not 0 < minutes <= _MOST_MINUTES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed is a number of minutes above 0, {_MOST_MINUTES} at most"
        )
    return minutes


class Consumer:
    """Takes and acknowledges whatever is in the queue, in a thread of its own.

    Attributes:
        received: times each message_id was received.
        error: what ended it, if anything did.
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
        """Raise what ended it."""
        if self.error is not None:
            raise RuntimeError("the consumer ended") from self.error

    def _run(self) -> None:
        try:
            self._await_first_delivery()
            self._consume()
        except Exception as error:  # noqa: BLE001 - raised again where the consumer is asked for
            self.error = error

    def _await_first_delivery(self) -> None:
        """Wait for the publisher to declare the queue: asking the broker would be an error."""
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
    """Runs over an hour of history after the other, one at a time."""

    def __init__(self, service: ServiceUnderTest) -> None:
        self.hours = 0
        self._service = service
        self._cadence = Cadence(
            service.settings.simulation_interval, service.settings.simulation_start
        )
        self._launched = float("-inf")

    def go_on(self) -> None:
        """Launch the next run if it is time and no run is under way."""
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
    """Take samples for so long; return them and the hours of history that were asked for."""
    load = Load(service)
    samples: list[Sample] = []
    begin = time.monotonic()
    stretch = duration.total_seconds() / _STRETCHES
    seconds, minute = 0.0, 0
    while seconds < duration.total_seconds():
        service.require_running()
        consumer.require_running()
        samples.append(take_sample(service.directory, service.process, seconds))
        busy = int(seconds // stretch) % 2 == 1
        if busy:
            load.go_on()
        if seconds >= minute * 60:
            service.graphql(_LOOK)
            _progress(samples[-1], busy=busy, messages=len(consumer.received))
            minute += 1
        # The beat of the samples: nothing is awaited.
        due = begin + len(samples) * _SAMPLE_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))
        seconds = time.monotonic() - begin
    return samples, load.hours


def _settle(service: ServiceUnderTest, consumer: Consumer, hours: int) -> list[str]:
    """Wait until nothing is left to do, and return what is wrong with the feed then."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        consumer.require_running()
        faults = [] if _runs(service, _UNFINISHED) else _faults(service, consumer, hours)
        if faults == [] and not _runs(service, _UNFINISHED):
            break
        if time.monotonic() > deadline:
            faults = faults or ["runs were still under way at the end"]
            break
        # What it waits for is in two servers, neither of which tells.
        time.sleep(_SETTLE_LOOK_SECONDS)
    failed = len(_runs(service, _FAILED))
    return [*faults, *([f"{failed} runs failed"] if failed else [])]


def _faults(service: ServiceUnderTest, consumer: Consumer, hours: int) -> list[str]:
    """Hold the results, the ledger and what was received against one another."""
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
        faults.append("windows have other than four rows")
    if {(model, label) for model, label, _ in stored} != {row[:2] for row in ledger}:
        faults.append("results and ledger name different windows")
    if pending := sum(published is None for *_, published in ledger):
        faults.append(f"{pending} windows are not published")
    ids = {str(message_id) for _, _, message_id, _ in ledger}
    received = set(consumer.received)
    if ids != received:
        faults.append(f"{len(ids - received)} messages missing, {len(received - ids)} unknown")
    if repeated := sum(times - 1 for times in consumer.received.values()):
        faults.append(f"{repeated} messages received more than once")

    labels = {
        model: sorted(row[1] for row in ledger if row[0] == model) for model in DEFAULT_MODELS
    }
    for model, own in labels.items():
        wrong = _gaps(own, settings.simulation_start, hours)
        faults += [f"{model}: {fault}" for fault in wrong]
    return faults


def _gaps(labels: Sequence[datetime], history: datetime, hours: int) -> list[str]:
    """Return what is missing of a model's windows: those of history, then those up to now."""
    past = int(hours * _HOUR / _INTERVAL)
    expected = [history + window * _INTERVAL for window in range(past)]
    if list(labels[:past]) != expected:
        return ["history has gaps"]
    recent = labels[past:]
    if not recent or recent[-1] < datetime.now(UTC) - timedelta(minutes=2):
        return ["the latest windows are missing"]
    breaks = [later for earlier, later in pairwise(recent) if later - earlier != _INTERVAL]
    return [f"{len(breaks)} gaps, the first before {breaks[0]}"] if breaks else []


def _runs(service: ServiceUnderTest, statuses: Sequence[str]) -> list[str]:
    answer = service.graphql(_RUNS, {"statuses": list(statuses)})
    return [run["runId"] for run in answer["runsOrError"]["results"]]


def _history_start(duration: timedelta) -> datetime:
    """Return a full hour early enough for all history to end before today's windows begin."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    return hour - timedelta(hours=24 + duration / timedelta(seconds=_LOAD_SECONDS))


def _compare(samples: Sequence[Sample], duration: timedelta) -> list[Growth]:
    compared = duration.total_seconds() / _STRETCHES * _COMPARED
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
    print(f"{len(samples)} samples, {idle} of them with no run under way")
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


def _give_up(number: int, _frame: FrameType | None) -> NoReturn:
    # Once only: what is ended on the way out must not be interrupted by the next.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(f"given up: {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main())
