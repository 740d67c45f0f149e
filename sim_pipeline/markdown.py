"""Text and tables in GitHub's Markdown, without HTML, for Dagster's UI.

The UI renders Markdown in metadata made by `MetadataValue.md` and in check descriptions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Text that is never markup, even at the start of a paragraph. Excluded are list numbers, and web
# addresses, which GitHub turns into links without any markup.
_PLAIN = re.compile(
    r"(?!\d+[.)]|.*www\.)"
    r"[A-Za-z0-9(/\x80-\U0010ffff][A-Za-z0-9 ()+,./\x80-\U0010ffff-]*",
    re.IGNORECASE,
)


def literal(text: str) -> str:
    """Return Markdown that displays a one-line text unchanged.

    This is the text itself if none of its characters can be markup. Otherwise it is the text as
    inline code, where nothing is markup.
    """
    if _PLAIN.fullmatch(text):
        return text
    # Inline code ends at the same number of backticks. A blank inside each end is stripped.
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def table(heads: Sequence[str], alignment: str, rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table.

    Args:
        heads: the column headers.
        alignment: one letter per column: l for left, r for right.
        rows: the cells, as Markdown.
    """
    line = ["---:" if side == "r" else "---" for side in alignment]
    return "\n".join(map(_row, (heads, line, *rows)))


def _row(cells: Sequence[object]) -> str:
    # An unescaped vertical bar ends a cell, even inside inline code.
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
