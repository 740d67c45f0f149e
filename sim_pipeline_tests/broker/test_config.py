"""Validation and text form of `BrokerConfig`."""

import secrets
from dataclasses import replace
from typing import Any

import pytest

from sim_pipeline.broker.config import BrokerConfig

PASSWORD = secrets.token_urlsafe()
CONFIG = BrokerConfig(host="broker", port=5672, user="us", password=PASSWORD, queue="results")


def test_password_is_never_shown() -> None:
    assert PASSWORD not in repr(CONFIG)
    assert PASSWORD not in str(CONFIG)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (CONFIG, "amqp://broker:5672, virtual host '/'"),
        (replace(CONFIG, tls=True, vhost="v"), "amqps://broker:5672, virtual host 'v'"),
    ],
)
def test_text_is_the_address(config: BrokerConfig, text: str) -> None:
    assert str(config) == text


@pytest.mark.parametrize("name", ["queue", "vhost"])
@pytest.mark.parametrize("value", ["", "q" * 256, "ü" * 128])
def test_names_amqp_cannot_carry_are_rejected(name: str, value: str) -> None:
    change: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"{name} must be 1 to 255 bytes of UTF-8, not '{value}'"):
        replace(CONFIG, **change)


def test_longest_name_is_accepted() -> None:
    assert replace(CONFIG, queue="ü" * 127 + "q").queue


@pytest.mark.parametrize(
    "name", ["heartbeat", "confirm_timeout", "attempts", "in_flight", "max_message_bytes"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_must_be_positive(name: str, value: int) -> None:
    change: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"{name} must be positive, not {value}"):
        replace(CONFIG, **change)
