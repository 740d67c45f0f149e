"""A small file of each tool and variant, written after the tool's own schema."""

import json
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parent


def load_sample(name: str) -> Any:
    """Return the parsed content of a JSON file."""
    return json.loads((SAMPLES / name).read_text(encoding="utf-8"))
