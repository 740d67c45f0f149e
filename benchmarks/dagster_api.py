"""Dagster's GraphQL API: queries, and backfills as the UI's dialog launches them."""

import json
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

BACKFILL_RUNNING = "REQUESTED"
BACKFILL_SUCCEEDED = "COMPLETED_SUCCESS"
BACKFILL_TAG = "dagster/backfill"
"""The tag of a backfill's runs; its value is the id of the backfill."""

_LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""


def graphql(
    port: int, query: str, variables: Mapping[str, Any] | None = None, *, seconds: float
) -> dict[str, Any]:
    """Send a query to the webserver on a port of this machine, and return its data.

    Args:
        port: the webserver's port.
        query: a query or a mutation.
        variables: the query's variables.
        seconds: the time limit for the answer.

    Raises:
        OSError: the webserver does not answer.
        RuntimeError: the answer contains errors.
    """
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query, "variables": variables or {}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310 - an http URL
        answer = json.load(response)
    if "errors" in answer:
        raise RuntimeError(f"GraphQL: {answer['errors']}")
    data: dict[str, Any] = answer["data"]
    return data


def launch_backfill(
    query: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    assets: Sequence[str],
    partition_keys: Sequence[str],
) -> str:
    """Launch a backfill and return its id.

    Args:
        query: sends a query with variables, such as `DagsterService.graphql`.
        assets: the assets to materialize.
        partition_keys: the partitions of each asset.

    Raises:
        RuntimeError: Dagster did not launch it.
    """
    params = {
        "assetSelection": [{"path": [asset]} for asset in assets],
        "partitionNames": list(partition_keys),
        "fromFailure": False,
        "tags": [],
    }
    answer = query(_LAUNCH, {"params": params})["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(f"the backfill of {', '.join(assets)} was not launched: {answer}")
    return str(answer["backfillId"])
