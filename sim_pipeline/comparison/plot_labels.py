r"""Labels of plots: model names as plain text, in fonts that contain their characters.

matplotlib's own font, DejaVu Sans, covers the scripts of Europe and the Near East. A package brings
a font for Chinese, Japanese and Korean, so that plots are the same on every machine; it is loaded
only if a name needs it. A character in neither font is drawn as its code, such as `\u16a0`.
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
"""The font size [points]."""

_FAMILY = "DejaVu Sans"
# The variant with Chinese letter forms; it contains the Japanese and Korean scripts too.
_CJK = "Noto Sans CJK SC"
_POINTS_PER_INCH = 72


@dataclass(frozen=True)
class Labels:
    """The labels of some names.

    Attributes:
        texts: the text to draw by name; draw it with `parse_math=False`.
        font: the font and its fallbacks.
        width: width of the widest text [inches].
    """

    texts: dict[str, str]
    font: FontProperties
    width: float


def labels(names: Sequence[str]) -> Labels:
    """Return the labels of some names."""
    from matplotlib.font_manager import FontProperties  # noqa: PLC0415 - a slow import

    families = [_FAMILY]
    missing = _missing_glyphs(_FAMILY, set("".join(names)))
    if missing:
        families.append(_cjk_family())
        missing = _missing_glyphs(_cjk_family(), missing)
    font = _font(*families)
    texts, width = {}, 0.0
    for name in names:
        text = "".join(
            _code(character) if character in missing else character for character in name
        )
        if not _is_drawable(font, text):
            # A character and its combining mark are in different fonts: no font can draw both.
            text = _code(text)
        font.set_text(text)
        width = max(width, font.get_width_height()[0] / 64)
        texts[name] = text
    return Labels(texts, FontProperties(family=families, size=SIZE), width / _POINTS_PER_INCH)


def _code(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _missing_glyphs(family: str, characters: set[str]) -> set[str]:
    """Return the characters that a font has no glyph for."""
    glyphs = _font(family).get_charmap()
    return {character for character in characters if ord(character) not in glyphs}


def _is_drawable(font: FT2Font, text: str) -> bool:
    with catch_warnings():
        simplefilter("error")
        try:
            font.set_text(text)
        except UserWarning:
            return False
    return True


def _font(*families: str) -> FT2Font:
    from matplotlib.font_manager import (  # noqa: PLC0415 - a slow import
        FontProperties,
        findfont,
        get_font,
    )

    font = get_font([findfont(FontProperties(family=family)) for family in families])
    font.set_size(SIZE, _POINTS_PER_INCH)
    return font


@cache
def _cjk_family() -> str:
    """Register the package's font with matplotlib; return its name."""
    from matplotlib.font_manager import fontManager  # noqa: PLC0415 - a slow import

    fontManager.addfont(str(files("noto_cjk_sans_otc") / "NotoSansCJK-Regular.ttc"))
    return _CJK
