"""A client of the web server's GraphQL API, with the queries and mutations that a backfill needs.

`command` decides when to call them.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sim_pipeline.dagster_instance.run_tags import REQUEST_TAG
from sim_pipeline.errors import ServiceError

ASSETS = ("metric_frames", "benchmark_feed")

_TIMEOUT_SECONDS = 60.0
# Dagster checks and stores all partitions, maybe tens of thousands, before it answers.
_LAUNCH_TIMEOUT_SECONDS = 300.0
_EVENTS_PER_QUERY = 1000
# Queued runs beyond this number are ended by Dagster's daemon.
_RUNS_PER_QUERY = 500

_MATERIALIZED = """
query ($assets: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $assets) {
    assetPartitionStatuses {
      ... on MultiPartitionStatuses {
        ranges {
          primaryDimStartKey
          primaryDimEndKey
          secondaryDim { ... on DefaultPartitionStatuses { materializedPartitions } }
        }
      }
    }
  }
}
"""
_UNFINISHED = """
query ($statuses: [BulkActionStatus!]!) {
  partitionBackfillsOrError(filters: {statuses: $statuses}) {
    __typename
    ... on PartitionBackfills { results { id tags { key value } } }
    ... on Error { message }
  }
}
"""
_LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}
"""
_STATE = """
query ($id: String!, $tags: [ExecutionTag!]!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status timestamp error { message } }
    ... on Error { message }
  }
  all: runsOrError(filter: {tags: $tags}) { ... on Runs { count } }
  succeeded: runsOrError(filter: {tags: $tags, statuses: [SUCCESS]}) { ... on Runs { count } }
}
"""
_CANCEL = """
mutation ($id: String!) {
  cancelPartitionBackfill(backfillId: $id) {
    __typename
    ... on Error { message }
  }
}
"""
_RUNS_IN_PROGRESS = """
query ($tags: [ExecutionTag!]!, $limit: Int!) {
  queued: runsOrError(filter: {tags: $tags, statuses: [QUEUED]}, limit: $limit) {
    ... on Runs { results { runId } }
  }
  started: runsOrError(filter: {tags: $tags, statuses: [STARTING, STARTED]}) {
    ... on Runs { results { runId } }
  }
}
"""
_TERMINATE = """
mutation ($runs: [String!]!) {
  terminateRuns(runIds: $runs) {
    __typename
    ... on Error { message }
  }
}
"""
_FAILED_RUNS = """
query ($tags: [ExecutionTag!]!) {
  runsOrError(filter: {tags: $tags, statuses: [FAILURE]}) {
    __typename
    ... on Runs { results { runId tags { key value } } }
    ... on Error { message }
  }
}
"""
_RUN_LOG = """
query ($run: ID!, $after: String, $limit: Int!) {
  logsForRun(runId: $run, afterCursor: $after, limit: $limit) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message }
        ... on ExecutionStepFailureEvent { error { message cause { message } } }
      }
    }
    ... on Error { message }
  }
}
"""


class WebserverError(ServiceError):
    """The web server is unreachable or refuses a request."""


class WebserverUnreachableError(WebserverError):
    """No Dagster web server answers. A retry may succeed."""


@dataclass(frozen=True)
class BackfillState:
    """The state of a backfill in Dagster.

    Attributes:
        status: a value of Dagster's BulkActionStatus.
        launched: the time of the launch, UTC.
        error: Dagster's error of the backfill itself, or None.
        runs: number of runs so far.
        runs_succeeded: number of runs that have succeeded.
    """

    status: str
    launched: datetime
    error: str | None
    runs: int
    runs_succeeded: int

    @property
    def has_ended(self) -> bool:
        """Whether the backfill has ended."""
        return self.status not in ("REQUESTED", "CANCELING", "FAILING")

    @property
    def has_succeeded(self) -> bool:
        """Whether every partition was materialized."""
        return self.status in ("COMPLETED", "COMPLETED_SUCCESS")


@dataclass(frozen=True)
class FailedRun:
    """A failed run that Dagster does not retry.

    Attributes:
        url: the address of its page in the UI.
        message: the first error in its log.
    """

    url: str
    message: str


class DagsterClient:
    """Calls a Dagster web server."""

    def __init__(self, url: str) -> None:
        """Create the client; it does not connect yet.

        Args:
            url: the address of the UI, without a final slash.
        """
        self.url = url
        # Ignores proxies from the environment: the web server is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def materialized(self) -> set[tuple[str, date]]:
        """Return the models and days that are materialized in both assets, with no later failure.

        Raises:
            WebserverError: the web server is unreachable or refuses.
        """
        nodes = self._query(_MATERIALIZED, assets=_asset_keys())["assetNodes"]
        if len(nodes) < len(ASSETS):
            raise WebserverError(
                f"{self.url} does not have the assets {' and '.join(ASSETS)}; see the log of"
                " the service"
            )
        return set.intersection(*(set(_partitions(node)) for node in nodes))

    def unfinished(self, request: str, *statuses: str) -> str | None:
        """Return the id of a backfill with this request's tag and one of these statuses, or None.

        Raises:
            WebserverError: the web server is unreachable or refuses.
        """
        answer = self._query(_UNFINISHED, statuses=statuses)["partitionBackfillsOrError"]
        for backfill in self._checked(answer)["results"]:
            if {"key": REQUEST_TAG, "value": request} in backfill["tags"]:
                return str(backfill["id"])
        return None

    def launch(
        self,
        request: str,
        partition_keys: Sequence[str],
        *,
        title: str,
        run_config: Mapping[str, Any],
    ) -> str:
        """Launch one backfill of both assets over some partitions; return its id.

        Raises:
            WebserverError: the web server refuses.
            WebserverUnreachableError: no answer; the backfill may have been launched.
        """
        params = {
            "assetSelection": _asset_keys(),
            "partitionNames": list(partition_keys),
            "title": title,
            "tags": [{"key": REQUEST_TAG, "value": request}],
            "runConfigData": run_config,
        }
        answer = self._query(_LAUNCH, timeout=_LAUNCH_TIMEOUT_SECONDS, params=params)
        return str(self._checked(answer["launchPartitionBackfill"])["backfillId"])

    def state(self, backfill: str) -> BackfillState:
        """Return the state of a backfill.

        Raises:
            WebserverError: the web server is unreachable or refuses.
        """
        answer = self._query(_STATE, id=backfill, tags=_tags(backfill))
        found = self._checked(answer["partitionBackfillOrError"])
        return BackfillState(
            status=found["status"],
            launched=datetime.fromtimestamp(found["timestamp"], UTC),
            error=_first_line(found["error"]["message"]) if found["error"] else None,
            runs=answer["all"]["count"],
            runs_succeeded=answer["succeeded"]["count"],
        )

    def cancel(self, backfill: str) -> None:
        """Make Dagster cancel a backfill: it launches no more runs of it.

        Raises:
            WebserverError: the web server is unreachable or refuses.
        """
        self._checked(self._query(_CANCEL, id=backfill)["cancelPartitionBackfill"])

    def end_runs(self, backfill: str) -> None:
        """End the queued and the running runs of a backfill.

        Dagster's daemon also ends the runs of a canceled backfill, but only after the launches it
        has begun, which can take 30 s and more.

        Raises:
            WebserverError: the web server is unreachable or refuses.
        """
        answer = self._query(_RUNS_IN_PROGRESS, tags=_tags(backfill), limit=_RUNS_PER_QUERY)
        # Queued runs first, because each run that ends lets a queued run start.
        runs = [run["runId"] for part in ("queued", "started") for run in answer[part]["results"]]
        if runs:
            self._checked(self._query(_TERMINATE, runs=runs)["terminateRuns"])

    def failed_runs(self, backfill: str) -> list[str]:
        """Return the ids of failed runs that Dagster does not retry, the earliest first.

        Raises:
            WebserverError: the web server is unreachable or refuses.
        """
        answer = self._query(_FAILED_RUNS, tags=_tags(backfill))["runsOrError"]
        return [
            str(run["runId"])
            for run in reversed(self._checked(answer)["results"])
            if {"key": "dagster/will_retry", "value": "true"} not in run["tags"]
        ]

    def explain(self, run: str) -> FailedRun:
        """Return the error of a failed run.

        Raises:
            WebserverError: the web server is unreachable or refuses.
        """
        message = "its log has no error"
        for event in self._events(run):
            match event:
                case {"__typename": "ExecutionStepFailureEvent", "error": {} as error}:
                    # Dagster's message names the step; its cause has the reason.
                    message = (error["cause"] or error)["message"]
                    break
                case {"__typename": "RunFailureEvent"}:
                    message = event["message"]
        return FailedRun(f"{self.url}/runs/{run}", _first_line(message))

    def _events(self, run: str) -> Iterator[Any]:
        after, more = None, True
        while more:
            answer = self._query(_RUN_LOG, run=run, after=after, limit=_EVENTS_PER_QUERY)
            log = self._checked(answer["logsForRun"])
            yield from log["events"]
            after, more = log["cursor"], log["hasMore"]

    def _query(self, query: str, *, timeout: float = _TIMEOUT_SECONDS, **variables: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - always http
            f"{self.url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=timeout) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                reason = _graphql_error(error.read()) or str(error)
            raise WebserverError(f"{self.url} answers: {reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise WebserverUnreachableError(
                f"No Dagster web server answers at {self.url}, set by UI_HOST, UI_PORT and"
                f" UI_PATH_PREFIX ({reason}); start the service with `make run`"
            ) from None
        if answer.get("errors"):
            raise WebserverError(f"{self.url} answers: {answer['errors'][0]['message']}")
        return answer["data"]

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer, or raise the error that it contains."""
        if "message" in answer:
            raise WebserverError(f"{self.url} answers: {_first_line(answer['message'])}")
        return answer


def _asset_keys() -> list[dict[str, list[str]]]:
    return [{"path": [name]} for name in ASSETS]


def _tags(backfill: str) -> list[dict[str, str]]:
    return [{"key": "dagster/backfill", "value": backfill}]


def _partitions(node: dict[str, Any]) -> Iterator[tuple[str, date]]:
    for dates in node["assetPartitionStatuses"].get("ranges", ()):
        first = date.fromisoformat(dates["primaryDimStartKey"]).toordinal()
        last = date.fromisoformat(dates["primaryDimEndKey"]).toordinal()
        for day in range(first, last + 1):
            for llm_name in dates["secondaryDim"]["materializedPartitions"]:
                yield llm_name, date.fromordinal(day)


def _graphql_error(body: bytes) -> str | None:
    """Return the message of a GraphQL error response, or None for any other response."""
    try:
        return str(json.loads(body)["errors"][0]["message"])
    except (ValueError, LookupError, TypeError):
        return None


def _first_line(message: str) -> str:
    return next((line for line in message.splitlines() if line.strip()), "").strip()
