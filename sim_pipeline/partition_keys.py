"""Keys of the partitions: a UTC day and a model, such as `2026-11-24|GPT-4o`."""

from datetime import date


def partition_key(day: date, llm_name: str) -> str:
    """Return the key of a day and model, as Dagster joins its two dimensions."""
    return f"{day.isoformat()}|{llm_name}"


def split_partition_key(key: str) -> tuple[str, str]:
    """Return the day, in ISO 8601, and the model of a key."""
    day, _, llm_name = key.partition("|")
    return day, llm_name
