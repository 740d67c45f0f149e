"""The four metrics: the names under which they are stored and published, their units, and limits.

The limits of a window's length are in `windows`.
"""

# The order of a window's four rows, in a frame and in a message.
METRICS = ("TTFT", "TPS", "e2e_latency", "RPS")

UNITS = {"TTFT": "s", "TPS": "tokens/s", "e2e_latency": "s", "RPS": "requests/s"}
"""The unit of each metric's values."""

FAILURE_KINDS = ("rate_limited", "overloaded", "timeout")
"""Why a request failed: the client sent too many, the endpoint has too few machines left, or no
answer came in time. Failures are counted per window and kind; they have no latency."""

EVENT_KINDS = (
    "incident",
    "level_shift",
    "capacity",
    "burst",
    "failure_spell",
    "release",
    "retirement",
)
"""The kinds of simulated events: `simulator/events.py` says what each does to the metrics."""

MAX_POINTS = 10_000
"""Largest NUM_DATA_POINTS: values of a metric in a window."""

MAX_MODEL_NAME_LENGTH = 50
"""Longest model name [characters]: the width of the column `llm_name`."""
