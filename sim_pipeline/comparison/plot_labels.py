r"""Model names as labels of plots: text that is drawn as it is, in fonts that have its characters.

matplotlib's own font, DejaVu Sans, has the scripts of Europe and the Near East. Chinese, Japanese
and Korean come with a package, so that a plot is the same on each machine. Its font is read only
for names that need it. A character that neither font has is drawn as its code, such as `\u16a0`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final
from warnings import catch_warnings, simplefilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.font_manager import FontProperties
    from matplotlib.ft2font import FT2Font

SIZE: Final = 7
"""In points."""

_FAMILY = "DejaVu Sans"
# Of the same characters in their Chinese, Japanese and Korean shapes; it has all three scripts.
_CJK = "Noto Sans CJK SC"
_POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Labels:
    """Names as they are drawn.

    Attributes:
        texts: by name; to be drawn without looking for formulas in them.
        font: the font, and those to fall back to.
        width: of the widest text, in inches.
    """

    texts: dict[str, str]
    font: FontProperties
    width: float


def labels(names: Sequence[str]) -> Labels:
    """Return the labels of some names."""
    from matplotlib.font_manager import FontProperties  # noqa: PLC0415 - takes long

    families = [_FAMILY]
    missing = _lacking(_FAMILY, set("".join(names)))
    if missing:
        families.append(_cjk_family())
        missing = _lacking(_cjk_family(), missing)
    font = _font(*families)
    texts, width = {}, 0.0
    for name in names:
        text = "".join(
            _code(character) if character in missing else character for character in name
        )
        if not _is_drawn(font, text):
            # Two fonts share a character and what is set above it, and neither has both.
            text = _code(text)
        font.set_text(text)
        width = max(width, font.get_width_height()[0] / 64)
        texts[name] = text
    return Labels(texts, FontProperties(family=families, size=SIZE), width / _POINTS_PER_INCH)


def _code(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _lacking(family: str, characters: set[str]) -> set[str]:
    """Return those of the characters that a font has no glyph of."""
    glyphs = _font(family).get_charmap()
    return {one for one in characters if ord(one) not in glyphs}


def _is_drawn(font: FT2Font, text: str) -> bool:
    with catch_warnings():
        simplefilter("error")
        try:
            font.set_text(text)
        except UserWarning:
            return False
    return True


def _font(*families: str) -> FT2Font:
    from matplotlib.font_manager import (  # noqa: PLC0415 - takes long
        FontProperties,
        findfont,
        get_font,
    )

    font = get_font([findfont(FontProperties(family=family)) for family in families])
    font.set_size(SIZE, _POINTS_PER_INCH)
    return font


@cache
def _cjk_family() -> str:
    """Make the package's font known to matplotlib; return its name."""
    from matplotlib.font_manager import fontManager  # noqa: PLC0415 - takes long

    fontManager.addfont(str(files("noto_cjk_sans_otc") / "NotoSansCJK-Regular.ttc"))
    return _CJK
