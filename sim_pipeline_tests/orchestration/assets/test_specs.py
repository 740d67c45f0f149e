"""A snapshot of what Dagster's UI shows of assets and checks, so that review sees changes."""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.metadata.source_code import CodeReferencesMetadataValue

import sim_pipeline
from sim_pipeline.config import read_settings
from sim_pipeline.definitions import build_defs

SNAPSHOT = Path(__file__).parent / "specs.json"
RENEW = "RENEW_SPECS"
ROOT = Path(sim_pipeline.__file__).parents[1]


def shown(value: Any) -> Any:
    """Return a metadata value as JSON, without this machine's paths and line numbers."""
    match value:
        case dg.TableSchema():
            return {
                column.name: [column.type, column.constraints.nullable, column.description]
                for column in value.columns
            }
        case CodeReferencesMetadataValue():
            return [
                Path(reference.file_path).relative_to(ROOT).as_posix()
                for reference in value.code_references
                if not hasattr(reference, "url")
            ]
        case dg.MetadataValue():
            return value.value
    return value


def specs() -> dict[str, Any]:
    """Describe every asset and check of the default settings."""
    graph = build_defs(read_settings()).resolve_asset_graph()
    assets = {
        node.key.to_user_string(): {
            "description": node.description,
            "group": node.group_name,
            "owners": sorted(node.owners),
            "kinds": sorted(node.kinds),
            "code_version": node.code_version,
            "upstream": sorted(key.to_user_string() for key in node.parent_keys),
            "partitions": node.partitions_def is not None
            and str(node.partitions_def.__class__.__name__),
            "freshness": str(node.freshness_policy),
            "metadata": {name: shown(value) for name, value in sorted(node.metadata.items())},
        }
        for node in graph.asset_nodes
    }
    checks = {
        f"{key.asset_key.to_user_string()}:{key.name}": {
            "description": graph.get_check_spec(key).description,
            "blocking": graph.get_check_spec(key).blocking,
        }
        for key in sorted(graph.asset_check_keys)
    }
    return {"assets": assets, "checks": checks}


@pytest.mark.usefixtures("clean_environment")
def test_specs_match_the_snapshot() -> None:
    found = json.dumps(specs(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if RENEW in os.environ:
        SNAPSHOT.write_text(found, encoding="utf-8")
    assert found == SNAPSHOT.read_text(encoding="utf-8"), (
        "the UI's description of the assets changed; if intended, update the snapshot:"
        f' {RENEW}=1 make test ARGS="{Path(__file__).relative_to(ROOT)}"'
    )


@pytest.mark.usefixtures("clean_environment")
def test_every_asset_is_fully_described() -> None:
    for name, asset in specs()["assets"].items():
        for field in ("description", "owners", "kinds", "code_version", "group"):
            assert asset[field], f"{name} has no {field}"
        assert asset["freshness"] != "None", name
        assert asset["metadata"]["dagster/code_references"] == [
            f"sim_pipeline/orchestration/assets/{name}.py"
        ]
        columns = asset["metadata"]["dagster/column_schema"]
        assert columns
        assert all(description for _, _, description in columns.values()), name
