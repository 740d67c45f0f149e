"""Tags that the pipeline sets on its runs and backfills."""

import hashlib
from collections.abc import Sequence

WINDOWS_TAG = "sim_pipeline/windows"
"""On each run of the schedule: the ISO 8601 interval that contains its window starts."""
QUEUE_TAG = "sim_pipeline/queue"
"""On each run that belongs neither to the schedule nor to a backfill."""
REQUEST_TAG = "sim_pipeline/backfill"
"""On each backfill of `make backfill`, and on its runs: the name of its request."""


def with_models(name: str, llm_names: Sequence[str]) -> str:
    """Return the name of the request for the same windows and other models.

    Args:
        name: the name of a request.
        llm_names: the other models, in the order of LLM_MODELS_STR.
    """
    span, _, _ = name.rpartition("/")
    models = hashlib.sha256("\n".join(llm_names).encode()).hexdigest()[:12]
    return f"{span}/{models}"
