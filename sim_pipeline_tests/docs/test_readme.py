"""Tests that README.md and docs/ are true: links, tables, make targets and commands."""

import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
from pydantic import BaseModel

from sim_pipeline.config import Settings, variable_name
from sim_pipeline.orchestration.resources import RunScope
from sim_pipeline.what_if.form import WhatIf

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        ROOT / "benchmarks" / "README.md",
        *DOCS.glob("*.md"),
        *DOCS.glob("*/README.md"),
    ]
)


def _page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _names_in_first_column(text: str, pattern: str) -> set[str]:
    """Return the names in backticks in the first column of a page's tables."""
    return {
        name
        for row in text.splitlines()
        if row.startswith("| `")
        for name in re.findall(rf"`({pattern})`", row.split("|")[1])
    }


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_linked_files_and_headings_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / unquote(path)) if path else page
        assert target.exists(), link
        if heading:
            assert heading in _headings(target), link


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=_page_id)
def test_readme_links_to_each_page(page: Path) -> None:
    assert f"]({page.relative_to(ROOT)})" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_settings_table_is_complete() -> None:
    table = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert _names_in_first_column(table, "[A-Z][A-Z_]+") == {
        variable_name(name) for name in Settings.model_fields
    }


@pytest.mark.parametrize(
    ("page", "form"), [("backfills.md", RunScope), ("what_if.md", WhatIf)], ids=["scope", "what_if"]
)
def test_launch_form_table_is_complete(page: str, form: type[BaseModel]) -> None:
    table = (DOCS / page).read_text(encoding="utf-8")
    assert _names_in_first_column(table, "[a-z_]+") == set(form.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`|&& )make ([a-z0-9-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_image_port_is_published_on_loopback_only() -> None:
    text = (DOCS / "image.md").read_text(encoding="utf-8")
    published = re.findall(r" -p (\S+)", text)
    assert published
    assert {port.partition(":")[0] for port in published} == {"127.0.0.1"}


def test_no_page_lets_a_shell_read_env_file() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")):
        assert not re.search(
            r"(?:\bsource|(?:^|[;(\s])\.)\s+(?:\./)?\.env", page.read_text("utf-8")
        ), page


def test_each_surrounding_names_existing_tests() -> None:
    page = (DOCS / "surroundings.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 24
    for _, surrounding, behaviour, tests, _ in rows:
        assert surrounding.strip()
        assert behaviour.strip()
        files = re.findall(r"`([\w/]+\.py)`", tests)
        assert files
        for file in files:
            assert (ROOT / "sim_pipeline_tests" / file).exists() or (ROOT / file).exists(), file


def test_architecture_names_existing_files() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    files = re.findall(r"`((?:\w+/)*\w+\.py)`", text)
    assert files
    for file in files:
        assert (ROOT / "sim_pipeline" / file).exists() or (ROOT / file).exists(), file


def test_architecture_lists_every_package_and_module() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    tree = text.partition("```\nsim_pipeline/\n")[2].partition("sim_pipeline_tests/")[0]
    package = ROOT / "sim_pipeline"
    assert set(re.findall(r"^  ([\w.]+/?) ", tree, flags=re.MULTILINE)) == {
        *(f"{path.parent.name}/" for path in package.glob("*/__init__.py")),
        *(path.name for path in package.glob("*.py") if path.name != "__init__.py"),
    }


def test_architecture_shows_the_layers_that_lint_checks() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    shown = text.partition("## Layers")[2].split("```")[1].strip().splitlines()
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in pyproject["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    assert shown == [layer.replace(" |", ",") for layer in layers if layer != "__main__"]
