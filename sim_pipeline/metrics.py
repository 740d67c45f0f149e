"""The four metrics: the names under which they are stored and published, their units, and limits.

The limits of a window's length are in `windows`.
"""

# The order of a window's four rows, in a frame and in a message.
METRICS = ("TTFT", "TPS", "e2e_latency", "RPS")

UNITS = {"TTFT": "s", "TPS": "tokens/s", "e2e_latency": "s", "RPS": "requests/s"}
"""The unit of each metric's values."""

MAX_POINTS = 10_000
"""Largest NUM_DATA_POINTS: values of a metric in a window."""

MAX_MODEL_NAME_LENGTH = 50
"""Longest model name [characters]: the width of the column `llm_name`."""
