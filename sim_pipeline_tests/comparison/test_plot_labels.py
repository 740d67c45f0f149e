"""Labels of plots: the fonts chosen for model names, and characters without a font."""

import subprocess
import sys

import pytest

from sim_pipeline.comparison.plot_labels import labels
from sim_pipeline.config import DEFAULT_MODELS


@pytest.mark.parametrize("name", ["通义千问-72B", "日本語モデル", "한국어-7B"])
def test_cjk_names_use_the_cjk_font(name: str) -> None:
    found = labels([name, "GPT-4o"])
    assert found.texts == {name: name, "GPT-4o": "GPT-4o"}
    assert found.font.get_family() == ["DejaVu Sans", "Noto Sans CJK SC"]


@pytest.mark.parametrize("name", [*DEFAULT_MODELS, "Русский", "Größe", "Ελληνικά", "نموذج", "❤️"])
def test_other_names_use_the_default_font_only(name: str) -> None:
    found = labels([name])
    assert found.texts == {name: name}
    assert found.font.get_family() == ["DejaVu Sans"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ᚠᚢ runes", r"\u16a0\u16a2 runes"),
        ("通𓀀", r"通\U00013000"),
        ("🚀 ไทย", r"\U0001f680 \u0e44\u0e17\u0e22"),
    ],
)
def test_character_without_a_font_is_drawn_as_code(name: str, text: str) -> None:
    assert labels([name]).texts == {name: text}


def test_width_is_that_of_the_widest_label() -> None:
    narrow, wide = labels(["i" * 50]).width, labels(["i", "W" * 50]).width
    assert 0 < narrow < wide < 6
    assert labels([]).width == 0


def test_matplotlib_is_imported_only_for_a_plot() -> None:
    code = "import sys, sim_pipeline.comparison.charts; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
