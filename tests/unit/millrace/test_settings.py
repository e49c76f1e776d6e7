"""The environment sets where services live, and says which variable is wrong."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from millrace import secrets
from millrace.errors import SettingsError
from millrace.secrets import redact
from millrace.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    secrets.forget_all()


def refusal(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> SettingsError:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return caught.value


def test_an_empty_environment_is_a_laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.state == tmp_path / ".millrace"
    assert settings.objects == str(tmp_path / ".millrace" / "objects")
    assert settings.ledger == f"sqlite:///{tmp_path}/.millrace/ledger.db"
    assert settings.ray == "127.0.0.1:6379"
    assert settings.prefect_api_url == "http://127.0.0.1:4200/api"
    assert list(tmp_path.iterdir()) == [], "reading settings makes nothing"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MILLRACE_PREFECT_URI", "MILLRACE_PREFECT_URL"), ("MILLRACE_LOGLEVEL", "MILLRACE_LOG_LEVEL")],
)
def test_an_unknown_variable_is_named_with_the_nearest(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(monkeypatch, name, "x")
    assert error.what == f"environment variable {name} is not a setting"
    assert error.allowed == f"did you mean '{meant}'?"
    assert error.next == f"unset {name}, or correct its name"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("MILLRACE_PREFECT_URL", "127.0.0.1:4200", "http:// or https://"),
        ("MILLRACE_PREFECT_URL", "ftp://host:1", "http:// or https://"),
        ("MILLRACE_MLFLOW_URL", "http://mlflow", "must name its port"),
        ("MILLRACE_SERVE_URL", "http://", "with a host"),
        ("MILLRACE_SERVE_URL", "http://host:99999", "0-65535"),
        ("MILLRACE_RAY_PORT", "80", "greater than or equal to 1024"),
        ("MILLRACE_RAY_PORT", "many", "valid integer"),
        ("MILLRACE_LISTEN", "localhost", "IPv4 or IPv6"),
        ("MILLRACE_LOG_LEVEL", "loud", "DEBUG|INFO"),
        ("MILLRACE_LOG_JSON", "perhaps", "boolean"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(monkeypatch, name, value)
    assert error.what == f"environment variable {name} has a bad value"
    assert error.got == repr(value)
    assert rule in (error.allowed or "")
    assert error.next == f"correct {name}"


def test_a_password_in_a_refused_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(monkeypatch, "MILLRACE_MLFLOW_URL", "http://user:hush@mlflow")
    assert error.got == "'http://***@mlflow'"
    assert "hush" not in str(error)


@pytest.mark.parametrize("name", ["MILLRACE_PREFECT_AUTH", "MILLRACE_MLFLOW_AUTH"])
@pytest.mark.parametrize(
    "value", ["hush-hush-hush", "me:hush", ":hush-hush-hush", "me:hush hush hush", "me:hush-hüsh-hush"]
)
def test_bad_credentials_are_refused_and_not_shown(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(monkeypatch, name, value)
    assert error.what == f"environment variable {name} has a bad value"
    assert "user:password" in (error.allowed or "")
    assert "hush" not in str(error)


def test_credentials_become_headers() -> None:
    settings = Settings(prefect_auth=SecretStr("me:prefect:1"), serve_key=SecretStr("mr_key"))
    assert settings.prefect_headers == {"authorization": "Basic bWU6cHJlZmVjdDox"}
    assert settings.serve_headers == {"authorization": "Bearer mr_key"}
    assert settings.mlflow_headers == {}
    for secret in ("prefect:1", "mr_key", "bWU6"):
        assert secret not in repr(settings)


def test_the_local_key_is_sent_to_this_machine_only_and_is_a_secret(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert settings.serve_headers == {}
    settings.local_key.write_text("mr_local-key\n")
    assert settings.serve_headers == {"authorization": "Bearer mr_local-key"}
    assert "mr_local-key" in set(settings.secret_values())
    assert settings.model_copy(update={"serve_url": "https://predict.example"}).serve_headers == {}
    named = settings.model_copy(update={"serve_key": SecretStr("mr_named-key")})
    assert named.serve_headers == {"authorization": "Bearer mr_named-key"}


@pytest.mark.parametrize("url", ["https://prefect.example.com/", "https://prefect.example.com"])
def test_a_trailing_slash_does_not_matter(url: str) -> None:
    assert Settings(prefect_url=url).prefect_api_url == "https://prefect.example.com/api"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().ray_port = 7000  # type: ignore[misc]


def test_secrets_are_not_in_the_repr() -> None:
    settings = Settings(ledger_url=SecretStr("postgresql://u:hush@db/x"))
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)
    assert settings.ledger == "postgresql://u:hush@db/x"


@given(
    port=st.integers(1024, 65535),
    objects=st.sampled_from([None, "s3://bucket/prefix/", "objects", "/abs/objects"]),
    ledger=st.sampled_from([None, "postgresql://u:p@db/x"]),
    address=st.sampled_from([None, "ray://head:10001"]),
    state=st.sampled_from(["state", "/abs/state", "~/state"]),
    log_json=st.booleans(),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_a_child_process_in_any_folder_reads_the_same_settings(
    port: int,
    objects: str | None,
    ledger: str | None,
    address: str | None,
    state: str,
    log_json: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        parent = Settings(
            ray_port=port,
            objects_url=objects,
            ledger_url=None if ledger is None else SecretStr(ledger),
            ray_address=address,
            state_dir=Path(state),
            log_json=log_json,
        )
        facts = (parent.objects, parent.ledger, parent.ray, parent.state, parent.pipelines, parent.log_json)
        environment = parent.environment()
        assert "://" in parent.objects or Path(parent.objects).is_absolute()
        assert all(isinstance(value, str) for value in environment.values())
        patch.chdir(there)
        for name, value in environment.items():
            patch.setenv(name, value)
        child = load_settings()
        assert facts == (child.objects, child.ledger, child.ray, child.state, child.pipelines, child.log_json)
        assert child.environment() == environment


@pytest.mark.parametrize("name", ["PREFECT_URL", "MLFLOW_URL", "SERVE_URL", "RAY_ADDRESS", "OBJECTS_URL"])
def test_a_url_that_is_shown_holds_no_password(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(monkeypatch, f"MILLRACE_{name}", "http://user:hush-hush@host:1234/x")
    assert "no user and no password" in (error.allowed or "")
    assert "hush" not in str(error)


def test_a_secret_does_not_travel_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(ledger_url=SecretStr("postgresql://u:hush-hush@db/x"), work_pool="mine")
    assert Settings.secret_variables() >= {"MILLRACE_LEDGER_URL"}
    travelling = pickle.dumps(settings)
    assert b"hush-hush" not in travelling
    with pytest.raises(SettingsError, match="MILLRACE_LEDGER_URL is not set in this process"):
        pickle.loads(travelling)
    monkeypatch.setenv("MILLRACE_LEDGER_URL", "postgresql://u:there-too@db/x")
    there = pickle.loads(travelling)
    assert (there.ledger, there.work_pool, there.state) == (
        "postgresql://u:there-too@db/x", "mine", settings.state,
    )  # fmt: skip
    assert redact("there-too") == "***", "it is known there"


def test_settings_without_secrets_travel_as_they_are() -> None:
    settings = Settings(ray_port=7000)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_secret_settings_are_known_once_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LEDGER_URL", "postgresql://u:in-the-url@db/x")
    load_settings()
    assert redact("FATAL: in-the-url is wrong") == "FATAL: *** is wrong"


def test_the_password_of_a_service_is_known_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_PREFECT_AUTH", "admin:battery-staple")
    load_settings()
    assert redact("wrong: battery-staple") == "wrong: ***"


def test_the_contents_of_key_files_are_known(tmp_path: Path) -> None:
    class WithKey(Settings):
        signing_key_file: Path | None = None

    (tmp_path / "key").write_text("first-line-of-it\nsecond-line-of-it\n")
    found = set(WithKey(state_dir=tmp_path / "state", signing_key_file=tmp_path / "key").secret_values())
    assert {"first-line-of-it", "second-line-of-it"} <= found
    assert set(WithKey(state_dir=tmp_path / "state", signing_key_file=tmp_path / "absent").secret_values()) == set()


def test_the_collector_is_ours_or_what_opentelemetry_names_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)
    assert load_settings().collector is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/")
    assert load_settings().collector == "http://collector:4318"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert load_settings().collector is None
    monkeypatch.setenv("MILLRACE_OTLP_URL", "https://ours")
    assert load_settings().collector == "https://ours"


def test_a_collector_that_is_no_url_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hush@collector:4318")
    with pytest.raises(SettingsError) as caught:
        _ = load_settings().collector
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in str(caught.value)
    assert "hush" not in str(caught.value)
