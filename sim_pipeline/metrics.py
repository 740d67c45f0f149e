"""The four metrics, by the names under which they are stored and published."""

# The order of a window's four rows, in a frame and in a message.
METRICS = ("TTFT", "TPS", "e2e_latency", "RPS")
