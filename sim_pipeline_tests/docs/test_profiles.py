"""docs/profiles.md: every field with its default and range, and valid examples."""

import re
import tomllib
from dataclasses import MISSING, Field, fields
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from sim_pipeline.simulator.arguments import field_ranges
from sim_pipeline.simulator.catalogue import WORKLOADS
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import Incident, Profile, Slo, Thinking, Workload
from sim_pipeline.simulator.profiles_file import profiles_from
from sim_pipeline.what_if.form import WhatIf

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "profiles.md").read_text(encoding="utf-8")
WORDS = {str: "a string", bool: "true or false", date: "a date"}
TABLES = {
    "workload": "all defaults",
    "input_lengths": "see below",
    "output_lengths": "see below",
    "thinking": "none",
}


def rows(header: str) -> dict[str, list[str]]:
    """Return the other cells of each row of the tables with this header, by name of the field."""
    found = {}
    for table in PAGE.split(header)[1:]:
        for row in table.split("\n\n")[0].splitlines()[2:]:
            names, *cells = (cell.strip() for cell in row.strip("|").split(" | "))
            found.update(dict.fromkeys(re.findall(r"`(\w+)`", names), cells))
    return found


def allowed(kind: type, name: str) -> str:
    """Return the allowed values of a field in words."""
    if name in field_ranges(kind):
        return re.sub("^an? (number in )?", "", str(field_ranges(kind)[name]))
    hint = get_type_hints(kind)[name]
    return WORDS.get((get_args(hint) or (hint,))[0], "a table")


def default(field: Field[Any]) -> str:
    """Return the default of a field in words."""
    if field.default is MISSING:
        return "required"
    if field.name == "slo":
        return "the workload's" if field.default is None else "see below"
    if field.name in TABLES:
        return TABLES[field.name]
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, int | float):
        return f"{field.default:g}"
    return str(field.default or "none")


SECTIONS: dict[type, str] = {
    Profile: "a model",
    Workload: "the workload",
    Thinking: "thinking",
    Slo: "an SLO",
}


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_table_has_every_field(kind: type) -> None:
    section = SECTIONS[kind]
    found = rows(f"## Fields of {section}\n\n| field | default | range | effect |")
    # The name is that of the table; incidents have a list of their own.
    expected = {
        field.name: [default(field), allowed(kind, field.name)]
        for field in fields(kind)
        if field.name not in {"name", "incidents"}
    }
    assert {name: cells[:2] for name, cells in found.items()} == expected
    assert all(cells[2] for cells in found.values())


def test_table_of_lengths_has_every_field() -> None:
    workload = Workload()
    found = rows("| field | input | output | range | effect |")
    assert {name: cells[:3] for name, cells in found.items()} == {
        field.name: [
            f"{getattr(workload.input_lengths, field.name):g}",
            f"{getattr(workload.output_lengths, field.name):g}",
            allowed(TokenLengths, field.name),
        ]
        for field in fields(TokenLengths)
    }


def test_table_of_incidents_has_every_field() -> None:
    found = rows("## Fields of an incident\n\n| field | default | range | effect |")
    assert set(found) == {"model", *(field.name for field in fields(Incident))}
    assert found["capacity_factor"][1] == allowed(Incident, "capacity_factor")


@pytest.mark.parametrize("page", ["profiles.md", "what_if.md", "slo.md"])
def test_example_files_are_valid(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    examples = re.findall(r"```(toml|yaml)\n(.*?)```", text, flags=re.DOTALL)
    assert examples
    for kind, example in examples:
        content = tomllib.loads(example) if kind == "toml" else yaml.safe_load(example)
        profiles_from(content, ["GPT-4o"], page)


def test_both_formats_of_the_example_are_equal() -> None:
    first, second = re.findall(r"```(?:toml|yaml)\n(.*?)```", PAGE, flags=re.DOTALL)[:2]
    assert tomllib.loads(first) == yaml.safe_load(second)


def test_example_of_the_form_is_valid_and_in_its_page() -> None:
    description = WhatIf.model_fields["profiles"].description or ""
    (example,) = re.findall(r"such as (\{.*\})\.", description)
    assert f"`{example}`" in (DOCS / "what_if.md").read_text(encoding="utf-8")
    profile = profiles_from(yaml.safe_load(example), ["GPT-4o"], "form")["GPT-4o"]
    assert profile != profiles_from({}, ["GPT-4o"], "form")["GPT-4o"]


def test_page_of_slos_has_the_built_in_limits() -> None:
    text = (DOCS / "slo.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([\w-]+)` \| (\S+) \| (\S+) \| (\S+) \| ", text, flags=re.MULTILINE)
    assert {name: limits for name, *limits in table} == {
        name: [
            "none" if limit is None else f"{limit:g}"
            for limit in (workload.slo.ttft, workload.slo.itl, workload.slo.e2e)
        ]
        for name, workload in WORKLOADS.items()
    }
