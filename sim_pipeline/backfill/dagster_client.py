"""The webserver's GraphQL API, as far as a backfill needs it.

What belongs here: questions and orders to Dagster, and what its answers mean. When to ask what is
`command`'s business.
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

_ANSWER_SECONDS = 60.0
# A backfill of tens of thousands of partitions is checked and written before it is answered.
_LAUNCH_SECONDS = 300.0
_EVENTS_AT_ONCE = 1000
# More than these are left to Dagster's daemon.
_ENDED_AT_ONCE = 500

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
_UNDER_WAY = """
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
    """The webserver can't be reached, or refuses what it was asked."""


class WebserverUnreachableError(WebserverError):
    """Nothing that speaks Dagster's API answers; it may later."""


@dataclass(frozen=True)
class State:
    """How far a backfill is, as Dagster sees it.

    Attributes:
        status: a value of Dagster's BulkActionStatus.
        launched: when it was asked for, UTC.
        error: what Dagster itself failed at, None if it did not.
        runs: how many runs there are so far.
        runs_succeeded: how many of them have succeeded.
    """

    status: str
    launched: datetime
    error: str | None
    runs: int
    runs_succeeded: int

    @property
    def has_ended(self) -> bool:
        """Whether Dagster is done with it."""
        return self.status not in ("REQUESTED", "CANCELING", "FAILING")

    @property
    def has_succeeded(self) -> bool:
        """Whether every partition was materialized."""
        return self.status in ("COMPLETED", "COMPLETED_SUCCESS")


@dataclass(frozen=True)
class FailedRun:
    """A run that failed and is not tried again.

    Attributes:
        url: its page.
        message: the first error in its log.
    """

    url: str
    message: str


class DagsterClient:
    """A Dagster webserver and the backfills behind it."""

    def __init__(self, url: str) -> None:
        """Name the webserver; nothing is asked yet.

        Args:
            url: where its pages are, without a slash at the end.
        """
        self.url = url
        # Whatever proxy the environment names is for other machines.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def materialized(self) -> set[tuple[str, date]]:
        """Return the models and days that are materialized in both assets, and did not fail since.

        Raises:
            WebserverError: see there.
        """
        nodes = self._ask(_MATERIALIZED, assets=_asset_keys())["assetNodes"]
        if len(nodes) < len(ASSETS):
            raise WebserverError(f"{self.url} does not know {' and '.join(ASSETS)}: see its log")
        return set.intersection(*(set(_partitions(node)) for node in nodes))

    def unfinished(self, request: str, *statuses: str) -> str | None:
        """Return the id of a backfill for a request that is in one of these states, or None.

        Raises:
            WebserverError: see there.
        """
        answer = self._ask(_UNFINISHED, statuses=statuses)["partitionBackfillsOrError"]
        for backfill in self._accepted(answer)["results"]:
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
            WebserverError: see there; if it is no refusal, the backfill may have been launched.
        """
        params = {
            "assetSelection": _asset_keys(),
            "partitionNames": list(partition_keys),
            "title": title,
            "tags": [{"key": REQUEST_TAG, "value": request}],
            "runConfigData": run_config,
        }
        answer = self._ask(_LAUNCH, seconds=_LAUNCH_SECONDS, params=params)
        return str(self._accepted(answer["launchPartitionBackfill"])["backfillId"])

    def state(self, backfill: str) -> State:
        """Return how far a backfill is.

        Raises:
            WebserverError: see there.
        """
        answer = self._ask(_STATE, id=backfill, tags=_tags(backfill))
        found = self._accepted(answer["partitionBackfillOrError"])
        return State(
            status=found["status"],
            launched=datetime.fromtimestamp(found["timestamp"], UTC),
            error=_first_line(found["error"]["message"]) if found["error"] else None,
            runs=answer["all"]["count"],
            runs_succeeded=answer["succeeded"]["count"],
        )

    def cancel(self, backfill: str) -> None:
        """Have Dagster launch no more runs of a backfill, and end it.

        Raises:
            WebserverError: see there.
        """
        self._accepted(self._ask(_CANCEL, id=backfill)["cancelPartitionBackfill"])

    def end_runs(self, backfill: str) -> None:
        """End the runs that are queued or under way.

        Of a backfill that is canceled Dagster's daemon ends them too, once it is done with
        launching those that it was at, half a minute later or more.

        Raises:
            WebserverError: see there.
        """
        answer = self._ask(_UNDER_WAY, tags=_tags(backfill), limit=_ENDED_AT_ONCE)
        # Those in the queue first: else each would take the place of one that is ended.
        runs = [run["runId"] for part in ("queued", "started") for run in answer[part]["results"]]
        if runs:
            self._accepted(self._ask(_TERMINATE, runs=runs)["terminateRuns"])

    def failed_runs(self, backfill: str) -> list[str]:
        """Return the ids of the runs that failed and are not tried again, the earliest first.

        Raises:
            WebserverError: see there.
        """
        answer = self._ask(_FAILED_RUNS, tags=_tags(backfill))["runsOrError"]
        return [
            str(run["runId"])
            for run in reversed(self._accepted(answer)["results"])
            if {"key": "dagster/will_retry", "value": "true"} not in run["tags"]
        ]

    def explain(self, run: str) -> FailedRun:
        """Return why a run failed.

        Raises:
            WebserverError: see there.
        """
        message = "its log does not say why"
        for event in self._events(run):
            match event:
                case {"__typename": "ExecutionStepFailureEvent", "error": {} as error}:
                    # Dagster's own words say where it happened, the cause says what.
                    message = (error["cause"] or error)["message"]
                    break
                case {"__typename": "RunFailureEvent"}:
                    message = event["message"]
        return FailedRun(f"{self.url}/runs/{run}", _first_line(message))

    def _events(self, run: str) -> Iterator[Any]:
        after, more = None, True
        while more:
            answer = self._ask(_RUN_LOG, run=run, after=after, limit=_EVENTS_AT_ONCE)
            log = self._accepted(answer["logsForRun"])
            yield from log["events"]
            after, more = log["cursor"], log["hasMore"]

    def _ask(self, query: str, *, seconds: float = _ANSWER_SECONDS, **variables: Any) -> Any:
        request = urllib.request.Request(  # noqa: S310 - http, as above
            f"{self.url}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=seconds) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                reason = _errors(error.read()) or str(error)
            raise WebserverError(f"{self.url} answers: {reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise WebserverUnreachableError(
                f"No Dagster answers at {self.url}, which UI_HOST, UI_PORT and UI_PATH_PREFIX name"
                f" ({reason}); start the service with `make run`"
            ) from None
        if answer.get("errors"):
            raise WebserverError(f"{self.url} answers: {answer['errors'][0]['message']}")
        return answer["data"]

    def _accepted(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Raise what an answer says is wrong, else return it."""
        if "message" in answer:
            raise WebserverError(f"{self.url} answers: {_first_line(answer['message'])}")
        return answer


def _asset_keys() -> list[dict[str, list[str]]]:
    return [{"path": [name]} for name in ASSETS]


def _tags(backfill: str) -> list[dict[str, str]]:
    return [{"key": "dagster/backfill", "value": backfill}]


def _partitions(node: dict[str, Any]) -> Iterator[tuple[str, date]]:
    for found in node["assetPartitionStatuses"].get("ranges", ()):
        first = date.fromisoformat(found["primaryDimStartKey"]).toordinal()
        last = date.fromisoformat(found["primaryDimEndKey"]).toordinal()
        for day in range(first, last + 1):
            for llm_name in found["secondaryDim"]["materializedPartitions"]:
                yield llm_name, date.fromordinal(day)


def _errors(body: bytes) -> str | None:
    """Return what GraphQL says is wrong with a query, None if it is not GraphQL that speaks."""
    try:
        return str(json.loads(body)["errors"][0]["message"])
    except (ValueError, LookupError, TypeError):
        return None


def _first_line(message: str) -> str:
    return next((line for line in message.splitlines() if line.strip()), "").strip()
