"""Text and tables in the Markdown that Dagster's UI renders: GitHub's, without HTML.

The UI renders so: metadata made by `MetadataValue.md`, and the descriptions of check results.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# What is no markup wherever it stands, be it the first word of a paragraph: no list's number, and
# no address, which becomes a link without any sign around it.
_PLAIN = re.compile(
    r"(?!\d+[.)]|.*www\.)"
    r"[A-Za-z0-9(/\x80-\U0010ffff][A-Za-z0-9 ()+,./\x80-\U0010ffff-]*",
    re.IGNORECASE,
)


def literal(text: str) -> str:
    """Return Markdown that shows a text of one line as it is.

    It is the text itself where no character of it can be markup, and else the text as code, in
    which nothing is.
    """
    if _PLAIN.fullmatch(text):
        return text
    # Code ends at as many backticks as it began with, and loses a blank at either end.
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def table(heads: Sequence[str], alignment: str, rows: Iterable[Sequence[object]]) -> str:
    """Return a table.

    Args:
        heads: the columns' heads.
        alignment: a letter a column: l for left, r for right.
        rows: the cells, as Markdown.
    """
    line = ["---:" if side == "r" else "---" for side in alignment]
    return "\n".join(map(_row, (heads, line, *rows)))


def _row(cells: Sequence[object]) -> str:
    # A vertical bar ends a cell, even within code, unless it follows a backslash, which then goes.
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
