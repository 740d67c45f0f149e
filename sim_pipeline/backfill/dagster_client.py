"""A client of the web server's GraphQL API, with the queries and mutations that a backfill needs.

`command` decides when to call them.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import yaml

from sim_pipeline.backfill.runs import Run
from sim_pipeline.dagster_instance.run_tags import BACKFILL_QUEUE, QUEUE_TAG, REQUEST_TAG
from sim_pipeline.errors import ServiceError

ASSETS = ("metric_frames", "benchmark_feed")
_CODE_LOCATION = {
    "repositoryLocationName": "sim_pipeline",
    "repositoryName": "__repository__",
}

_TIMEOUT_SECONDS = 60.0
# Dagster stores an event for each partition, maybe tens of thousands, before it answers.
_LAUNCH_TIMEOUT_SECONDS = 300.0
_EVENTS_PER_QUERY = 1000
# The newest runs of a request: many times as many as one backfill has, with their retries.
_RUNS_PER_QUERY = 500

_LIMITS = "{ instance { runQueueConfig { maxConcurrentRuns tagConcurrencyLimitsYaml } } }"
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
_RUNS = """
query ($tags: [ExecutionTag!]!, $limit: Int!) {
  runsOrError(filter: {tags: $tags}, limit: $limit) {
    ... on Runs {
      results {
        runId rootRunId parentRunId status creationTime updateTime tags { key value }
      }
    }
    ... on Error { message }
  }
}
"""
_LAUNCH = """
mutation ($runs: [ExecutionParams!]!) {
  launchMultipleRuns(executionParamsList: $runs) {
    ... on LaunchMultipleRunsResult {
      launchMultipleRunsResult {
        ... on LaunchRunSuccess { run { runId } }
        ... on RunConfigValidationInvalid { errors { message } }
        ... on Error { message }
      }
    }
    ... on Error { message }
  }
}
"""
_STATUS = """
query ($run: ID!) { runOrError(runId: $run) { ... on Run { status } ... on Error { message } } }
"""
_TERMINATE = """
mutation ($runs: [String!]!) { terminateRuns(runIds: $runs) { ... on Error { message } } }
"""
_RUN_LOG = """
query ($run: ID!, $after: String, $limit: Int!) {
  logsForRun(runId: $run, afterCursor: $after, limit: $limit) {
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


class DagsterClient:
    """Calls a Dagster web server.

    Each method raises `WebserverUnreachableError` if no web server answers, and `WebserverError`
    if it refuses the request.
    """

    def __init__(self, url: str) -> None:
        """Create the client; it does not connect yet.

        Args:
            url: the address of the UI, without a final slash.
        """
        self.url = url
        # Ignores proxies from the environment: the web server is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def run_limit(self) -> int:
        """Return how many runs of backfills can be in progress at a time."""
        config = self._query(_LIMITS)["instance"]["runQueueConfig"]
        limits = yaml.safe_load(config["tagConcurrencyLimitsYaml"] or "[]")
        of_backfills = {"key": QUEUE_TAG, "value": BACKFILL_QUEUE}
        return min(
            [int(config["maxConcurrentRuns"])]
            + [int(limit["limit"]) for limit in limits if of_backfills.items() <= limit.items()]
        )

    def materialized(self) -> set[tuple[str, date]]:
        """Return the models and days whose partitions both assets have, without a later failure."""
        assets = [{"path": [name]} for name in ASSETS]
        nodes = self._query(_MATERIALIZED, assets=assets)["assetNodes"]
        if len(nodes) < len(ASSETS):
            raise WebserverError(
                f"{self.url} does not have the assets {' and '.join(ASSETS)}; see the log of"
                " the service"
            )
        return set.intersection(*(set(_partitions(node)) for node in nodes))

    def runs(self, request: str) -> list[Run]:
        """Return the runs with this request's tag and their retries, the newest first."""
        tags = [{"key": REQUEST_TAG, "value": request}]
        answer = self._query(_RUNS, tags=tags, limit=_RUNS_PER_QUERY)["runsOrError"]
        return [Run.from_graphql(run) for run in self._checked(answer)["results"]]

    def launch(
        self, job: str, tags: Sequence[Mapping[str, str]], run_config: Mapping[str, Any]
    ) -> list[str]:
        """Launch a run of a job for each set of tags; return the ids of the runs.

        If this raises an error, some of the runs may have been launched.
        """
        runs = [
            {
                "selector": {**_CODE_LOCATION, "jobName": job},
                "runConfigData": run_config,
                "executionMetadata": {
                    "tags": [{"key": key, "value": value} for key, value in each.items()]
                },
            }
            for each in tags
        ]
        answer = self._query(_LAUNCH, timeout=_LAUNCH_TIMEOUT_SECONDS, runs=runs)
        results = self._checked(answer["launchMultipleRuns"])["launchMultipleRunsResult"]
        return [self._checked(result)["run"]["runId"] for result in results]

    def status(self, run: str) -> str:
        """Return the status of a run, such as `STARTED` or `SUCCESS`."""
        return str(self._checked(self._query(_STATUS, run=run)["runOrError"])["status"])

    def terminate(self, runs: Sequence[str]) -> None:
        """Ask runs to end. A run ends after its current batch; a queued run ends at once."""
        self._checked(self._query(_TERMINATE, runs=runs)["terminateRuns"])

    def page(self, run: str) -> str:
        """Return the address of a run's page in the UI."""
        return f"{self.url}/runs/{run}"

    def error_of(self, run: str) -> str:
        """Return the first error in the log of a failed run, or why a run was canceled."""
        message = "its log has no error"
        for event in self._events(run):
            match event:
                case {"__typename": "ExecutionStepFailureEvent", "error": {} as error}:
                    # Dagster's message names the step; its cause has the reason.
                    message = (error["cause"] or error)["message"]
                    break
                case {"__typename": "RunFailureEvent" | "RunCanceledEvent"}:
                    message = event["message"]
        return _first_line(message)

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
                f" UI_PATH_PREFIX ({reason})"
            ) from None
        if answer.get("errors"):
            raise WebserverError(f"{self.url} answers: {answer['errors'][0]['message']}")
        return answer["data"]

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer, or raise the error that it contains."""
        for error in (answer, *answer.get("errors", ())):
            if "message" in error:
                raise WebserverError(f"{self.url} answers: {_first_line(error['message'])}")
        return answer


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
