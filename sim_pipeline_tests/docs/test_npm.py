"""What is locked for npm installs from any registry."""

import re
from pathlib import Path

import pytest

from sim_pipeline_tests.broker.test_asyncapi import ASYNCAPI_SCHEMA
from sim_pipeline_tests.docs.test_consumers import CONSUMERS


@pytest.mark.parametrize("manifests", [CONSUMERS, ASYNCAPI_SCHEMA], ids=lambda path: path.name)
def test_lock_files_name_no_registry_but_the_public_one(manifests: Path) -> None:
    lock = (manifests / "package-lock.json").read_text(encoding="utf-8")

    assert '"integrity": "sha512-' in lock
    assert set(re.findall(r'https?://([^/"]+)', lock)) <= {"registry.npmjs.org"}
