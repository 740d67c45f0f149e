"""What the fixture `history` holds."""

from typing import Final

MODELS: Final = ("DeepSeek-V3", "GPT-4o", "Llama-3.1-8B")
DAYS: Final = 9
PENDING: Final = 2
"""So many of the newest windows of each model are not delivered."""
