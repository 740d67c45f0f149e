"""Text and tables, checked with a Markdown parser."""

from collections.abc import Iterator

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from sim_pipeline import markdown
from sim_pipeline.config import DEFAULT_MODELS, MODEL_NAME_FORBIDDEN

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

MARKUP = (
    "<img src=x onerror=alert(1)>",
    "<!-- gone -->",
    "<https://example.com>",
    "__init__",
    "_internal",
    "*bold*",
    "~~gone~~",
    "`code`",
    "a`b``c",
    "``",
    "[x](y)",
    "![x](y)",
    "&lt;",
    "# head",
    "> quote",
    "- item",
    "+ item",
    "1. item",
    "1) item",
    "back\\slash",
    "\\*kept\\*",
    "ends\\",
    "a|b",
    "a$$b",
    "===",
)
# GitHub's Markdown turns these into links; the parser used here does not.
ADDRESSES = (
    "https://example.com/x",
    "www.example.com",
    "by WWW.example.com",
    "name@example.com",
    "mailto:name@example.com",
)
# Names that need no escaping.
PLAIN = (
    *DEFAULT_MODELS,
    "gpt (fast), 50+ tokens/s",
    "01-ai/Yi",
    "/etc/fleet.toml",
    "通义千问-72B",
    "ไทย",
    "🚀",
)


def leaves(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        if token.children:
            yield from leaves(token.children)
        elif token.type != "inline":
            yield token


def shown(tokens: list[Token]) -> str:
    """Return the displayed text; assert that it is only text and inline code."""
    found = list(leaves(tokens))
    assert {token.type for token in found} <= {"text", "code_inline"}
    return "".join(token.content for token in found)


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table; assert that the text is one table and nothing else."""
    tokens = PARSER.parse(text)
    assert (tokens[0].type, tokens[-1].type) == ("table_open", "table_close")
    assert sum(token.type == "table_open" for token in tokens) == 1
    found: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline":
            found[-1].append(shown([token]))
    return found


@pytest.mark.parametrize("name", [*MARKUP, *ADDRESSES, *PLAIN])
def test_cell_shows_the_name_unchanged(name: str) -> None:
    text = markdown.table(("model", "p50"), "lr", [(markdown.literal(name), 1.5)])
    assert rows(text) == [["model", "p50"], [name, "1.5"]]


@pytest.mark.parametrize("name", [*MARKUP, *ADDRESSES, *PLAIN])
def test_paragraph_shows_the_name_unchanged(name: str) -> None:
    tokens = PARSER.parse(f"{markdown.literal(name)} is slow")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(tokens[1:2]) == f"{name} is slow"


@pytest.mark.parametrize("name", ADDRESSES)
def test_address_is_code_not_link(name: str) -> None:
    assert markdown.literal(name) == f"`{name}`"


@pytest.mark.parametrize("name", PLAIN)
def test_plain_name_is_not_escaped(name: str) -> None:
    assert markdown.literal(name) == name


def test_every_printable_character_is_shown() -> None:
    for code in range(0x20, 0x180):
        name = f"a{chr(code)}{chr(code)}b{chr(code)}"
        if name.isprintable() and not set(name) & set(MODEL_NAME_FORBIDDEN):
            assert rows(markdown.table(("model",), "l", [(markdown.literal(name),)]))[1] == [
                name.rstrip()
            ], name


def test_columns_are_aligned() -> None:
    assert markdown.table(("a", "b"), "lr", [(1, 2)]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
