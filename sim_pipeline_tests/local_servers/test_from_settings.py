"""The local servers of LOCAL_SERVICES."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import pytest

from sim_pipeline.config import Settings, read_settings
from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers import from_settings as local

Start = Callable[[Settings, Path], AbstractContextManager[None]]

BOTH = pytest.mark.parametrize(
    ("start", "variable"),
    [(local.local_postgres, "POSTGRES_HOST"), (local.local_rabbitmq, "RABBITMQ_HOST")],
)


class Recorded:
    """A fake server that records its address."""

    def __init__(self, data_dir: Path, **options: object) -> None:
        self.data_dir = data_dir
        self.host, self.port = str(options["host"]), options["port"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ensure_database(self, name: str) -> None: ...


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]"])
@pytest.mark.usefixtures("clean_environment")
def test_any_loopback_address_is_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Start, variable: str, host: str
) -> None:
    made = []

    def make(data_dir: Path, **options: object) -> Recorded:
        made.append(options["host"])
        return Recorded(data_dir, **options)

    monkeypatch.setattr(local, "LocalPostgres", make)
    monkeypatch.setattr(local, "LocalRabbitMQ", make)
    password = variable.lower().replace("host", "password")
    settings = read_settings({variable.lower(): host, password: "secret"})
    with start(settings, tmp_path):
        assert made == [host.strip("[]")]


@BOTH
@pytest.mark.usefixtures("clean_environment")
def test_host_of_another_machine_is_rejected(tmp_path: Path, start: Start, variable: str) -> None:
    settings = read_settings({variable.lower(): "db.example.com"})
    message = rf"^{variable}='db.example.com': allowed .* is 127.0.0.1, ::1 or localhost; set LOCAL"
    with pytest.raises(ServiceError, match=message), start(settings, tmp_path):
        pass


@BOTH
@pytest.mark.usefixtures("clean_environment")
def test_empty_password_is_rejected(tmp_path: Path, start: Start, variable: str) -> None:
    password = variable.replace("HOST", "PASSWORD")
    message = rf"^{password} is empty: LOCAL_SERVICES=true needs a password; set one in .env"
    with pytest.raises(ServiceError, match=message), start(read_settings({}), tmp_path):
        pass
