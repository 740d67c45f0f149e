"""What the README shows is true: its tables, links and targets name what there is."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from sim_pipeline.config import Settings, variable_name
from sim_pipeline.orchestration.resources import RunScope
from sim_pipeline.what_if.form import WhatIf

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_file_it_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_setting_and_no_other_is_in_the_table() -> None:
    table = README.partition("## Settings")[2].partition("### ")[0]
    names = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([A-Z][A-Z_]+)`", row.split("|")[1])
    }
    assert names == {variable_name(name) for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("heading", "form"),
    [("`resources: scope: config`", RunScope), ("## What if", WhatIf)],
)
def test_every_field_of_a_launch_form_is_in_its_table(heading: str, form: type[BaseModel]) -> None:
    table = README.partition(heading)[2].partition("## ")[0]
    names = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert names == set(form.model_fields)


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z0-9-]+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_image_is_published_on_this_machine_alone() -> None:
    published = re.findall(r" -p (\S+)", README)
    assert published
    assert {port.partition(":")[0] for port in published} == {"127.0.0.1"}


def test_no_shell_reads_the_settings() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")):
        assert not re.search(
            r"(?:\bsource|(?:^|[;(\s])\.)\s+(?:\./)?\.env", page.read_text("utf-8")
        ), page


def test_each_surrounding_has_tests_that_exist() -> None:
    page = (ROOT / "docs" / "surroundings.md").read_text(encoding="utf-8")
    rows = [row.split("|") for row in page.splitlines() if row.startswith("| ")][1:]
    assert len(rows) == 24
    for _, surrounding, behaviour, tests, _ in rows:
        assert surrounding.strip()
        assert behaviour.strip()
        files = re.findall(r"`([\w/]+\.py)`", tests)
        assert files
        for file in files:
            assert (ROOT / "sim_pipeline_tests" / file).exists() or (ROOT / file).exists(), file
