"""The four metrics, by the names under which they are stored and published."""

# The order of a window's four rows, in a frame and in a message.
METRICS = ("TTFT", "TPS", "e2e_latency", "RPS")

UNITS = {"TTFT": "s", "TPS": "tokens/s", "e2e_latency": "s", "RPS": "requests/s"}
"""The unit of each metric's values."""
