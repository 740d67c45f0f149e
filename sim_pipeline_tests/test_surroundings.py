"""The environment of the pipeline's processes on machines that set unusual variables."""

import pytest

from sim_pipeline.surroundings import safe_environment, secure_this_process

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def exempt(environment: dict[str, str], name: str) -> set[str]:
    return set(safe_environment(environment)[name].split(","))


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY", "no_grpc_proxy"])
def test_loopback_bypasses_proxies(name: str) -> None:
    assert exempt({"http_proxy": "http://proxy.example:3128"}, name) == LOOPBACK


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY", "no_grpc_proxy"])
@pytest.mark.parametrize("given", ["no_proxy", "NO_PROXY"])
def test_existing_exceptions_are_kept(name: str, given: str) -> None:
    hosts = {"corp.example", "10.0.0.0/8"}
    assert exempt({given: "corp.example, 10.0.0.0/8"}, name) == hosts | LOOPBACK


@pytest.mark.parametrize("variable", ["UI_HOST", "CODE_SERVER_HOST", "KUBERNETES_SERVICE_HOST"])
def test_hosts_of_the_pipeline_bypass_proxies(variable: str) -> None:
    assert exempt({variable: "code-location"}, "no_proxy") == {"code-location", *LOOPBACK}


def test_proxies_are_kept_for_other_hosts() -> None:
    safe = safe_environment({"https_proxy": "http://proxy.example:3128"})
    assert safe["https_proxy"] == "http://proxy.example:3128"


@pytest.mark.parametrize("name", ["PGHOSTADDR", "PGSERVICE", "PGOPTIONS", "PGPORT"])
def test_libpq_takes_the_server_from_the_settings(name: str) -> None:
    assert name not in safe_environment({name: "elsewhere"})


def test_libpq_client_certificates_are_kept() -> None:
    assert safe_environment({"PGSSLCERT": "/a/cert"})["PGSSLCERT"] == "/a/cert"


def test_sessions_are_in_utc_and_text_in_utf8() -> None:
    safe = safe_environment({"PGTZ": "Asia/Shanghai", "PYTHONUTF8": "0", "TZ": "Asia/Shanghai"})
    assert (safe["PGTZ"], safe["PYTHONUTF8"], safe["TZ"]) == ("UTC", "1", "Asia/Shanghai")


def test_process_secures_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    monkeypatch.setenv("PGTZ", "Asia/Shanghai")
    with monkeypatch.context() as patch:
        environment = {"PGHOSTADDR": "192.0.2.1", "PGTZ": "Asia/Shanghai"}
        patch.setattr("os.environ", environment)
        secure_this_process()
    assert "PGHOSTADDR" not in environment
    assert environment["PGTZ"] == "UTC"
