"""The tags that the pipeline puts on its runs and backfills."""

import hashlib
from collections.abc import Sequence

WINDOWS_TAG = "sim_pipeline/windows"
"""On each run of the schedule: the ISO 8601 interval that its windows start in."""
QUEUE_TAG = "sim_pipeline/queue"
"""On each run that is neither the schedule's nor a backfill's."""
REQUEST_TAG = "sim_pipeline/backfill"
"""On each backfill of `make backfill`, and on its runs: the name of the request that it is for."""


def with_models(name: str, llm_names: Sequence[str]) -> str:
    """Return the name of the request for the same windows of other models.

    Args:
        name: of a request.
        llm_names: the other models, in the order of LLM_MODELS_STR.
    """
    span, _, _ = name.rpartition("/")
    models = hashlib.sha256("\n".join(llm_names).encode()).hexdigest()[:12]
    return f"{span}/{models}"
