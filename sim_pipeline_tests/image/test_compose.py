"""compose.yaml, as text: an engine can be had here, but no registry to pull the servers from."""

from typing import Any

import pytest
import yaml

from sim_pipeline.config import Settings, variable_name
from sim_pipeline_tests.support.make import PROJECT


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    content = yaml.safe_load((PROJECT / "compose.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["services"]
    return found


def test_service_waits_for_healthy_servers(services: dict[str, Any]) -> None:
    awaited = services["simulation"]["depends_on"]
    assert set(awaited) == set(services) - {"simulation"}
    assert all(one == {"condition": "service_healthy"} for one in awaited.values())
    assert all("healthcheck" in services[name] for name in awaited)


def test_settings_exist_and_name_the_servers(services: dict[str, Any]) -> None:
    settings = services["simulation"]["environment"]
    assert set(settings) <= {variable_name(name) for name in Settings.model_fields}
    assert settings["POSTGRES_HOST"] in services
    assert settings["RABBITMQ_HOST"] in services
    database = services["postgres"]["environment"]
    assert database["POSTGRES_USER"] == Settings.model_fields["postgres_user"].default
    assert database["POSTGRES_DB"] == Settings.model_fields["postgres_db"].default
    assert database["POSTGRES_PASSWORD"] == settings["POSTGRES_PASSWORD"]
    broker = services["rabbitmq"]["environment"]
    assert broker["RABBITMQ_DEFAULT_USER"] == Settings.model_fields["rabbitmq_user"].default
    assert broker["RABBITMQ_DEFAULT_PASS"] == settings["RABBITMQ_PASSWORD"]


def test_only_the_ui_is_published_and_only_on_this_machine(services: dict[str, Any]) -> None:
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published == {"simulation": ["127.0.0.1:3000:3000"]}


def test_service_has_no_privileges(services: dict[str, Any]) -> None:
    service = services["simulation"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
