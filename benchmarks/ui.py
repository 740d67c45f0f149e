"""The API of the UI, as benchmarks ask it."""

import json
import urllib.request
from collections.abc import Mapping
from typing import Any


def graphql(
    port: int, query: str, variables: Mapping[str, Any] | None = None, *, seconds: float
) -> dict[str, Any]:
    """Ask the webserver on a port of this machine, and wait so long for its answer.

    Raises:
        OSError: it does not answer.
        RuntimeError: it answers with errors.
    """
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query, "variables": variables or {}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310 - the same
        answer = json.load(response)
    if "errors" in answer:
        raise RuntimeError(f"GraphQL: {answer['errors']}")
    data: dict[str, Any] = answer["data"]
    return data
