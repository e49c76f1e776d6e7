"""A stack that others could reach starts only with credentials."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.local import stack
from infra.local.doors import listen_hosts, require
from infra.local.layout import Layout
from infra.local.parts import mlflow, prefect
from infra.local.processes import doors_digest
from millrace.errors import SettingsError
from millrace.settings import Settings

PREFECT, MLFLOW = SecretStr("me:prefect-secret"), SecretStr("me:mlflow-secret")


def test_a_laptop_needs_no_credentials() -> None:
    require(Settings())
    require(Settings(listen="127.0.0.2"))
    require(Settings(prefect_url="http://localhost:4200", mlflow_url="https://mlflow.example"))


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"listen": "0.0.0.0"}, "PREFECT"),
        ({"listen": "::"}, "PREFECT"),
        ({"listen": "10.0.0.1", "prefect_auth": PREFECT}, "MLFLOW"),
        ({"listen": "10.0.0.1", "mlflow_auth": MLFLOW}, "PREFECT"),
        ({"prefect_url": "http://prefect.example:4200"}, "PREFECT"),
        ({"mlflow_url": "http://10.0.0.1:5000"}, "MLFLOW"),
        ({"mlflow_url": "http://127.0.0.1.example:5000", "prefect_auth": PREFECT}, "MLFLOW"),
    ],
)
def test_what_others_could_reach_needs_them(values: dict[str, object], part: str, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", **values)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=f"MILLRACE_{part}_AUTH=user:password") as caught:
        stack.up(settings, lambda *_: None)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "state").exists(), "nothing was begun"


def test_with_them_it_may_listen_elsewhere() -> None:
    require(Settings(listen="0.0.0.0", prefect_auth=PREFECT, mlflow_auth=MLFLOW))


def test_an_address_of_another_machine_is_refused() -> None:
    settings = Settings(listen="198.51.100.7", prefect_auth=PREFECT, mlflow_auth=MLFLOW)
    with pytest.raises(SettingsError, match="no address of this machine"):
        require(settings)


@pytest.mark.parametrize(
    ("listen", "hosts"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("10.0.0.1", ("127.0.0.1", "10.0.0.1")),
        ("0.0.0.0", ("0.0.0.0",)),
        ("::1", ("127.0.0.1", "::1")),
    ],
)
def test_loopback_is_always_among_the_addresses(listen: str, hosts: tuple[str, ...]) -> None:
    assert listen_hosts(Settings(listen=listen)) == hosts


def test_servers_get_their_credentials_and_close_their_cors(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, prefect_auth=PREFECT, mlflow_auth=MLFLOW)
    layout = Layout(settings.state)
    extra = prefect(settings, layout).extra
    assert extra["PREFECT_SERVER_API_AUTH_STRING"] == PREFECT.get_secret_value()
    assert extra["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"
    assert "*" not in mlflow(settings, layout).extra["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert "PREFECT_SERVER_API_AUTH_STRING" not in prefect(Settings(state_dir=tmp_path), layout).extra


def test_a_server_that_was_started_with_other_doors_is_known() -> None:
    digests = {
        doors_digest(Settings(**values).environment())  # type: ignore[arg-type]
        for values in ({}, {"listen": "0.0.0.0"}, {"prefect_auth": PREFECT}, {"mlflow_auth": MLFLOW})
    }
    assert len(digests) == 4
    assert doors_digest(Settings(log_level="DEBUG").environment()) in digests
