"""Where services live, where state lives, and secrets: the only thing the environment may set.

Each field is read from `MILLRACE_<FIELD>`; nothing about a pipeline is set here (that is `pipeline.yaml`).
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from millrace import secrets
from millrace.errors import SettingsError, nearest

_PREFIX = "MILLRACE_"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_KEY_BYTES = 16_384
_OTLP_ENDPOINT, _OTLP_PROTOCOL, _OTLP_HTTP = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "http/protobuf",
)


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.scheme == "http" and parts.port is None:
        raise ValueError("must name its port, for example http://127.0.0.1:4200")
    return _without_user(value).rstrip("/")


def _without_user(value: str) -> str:
    # These are logged, shown, and sent to the workers of the cluster.
    if "://" in value and "@" in urlsplit(value).netloc:
        raise ValueError("must hold no user and no password; give credentials in the service's own variables")
    return value


def _without_password(value: object) -> object:
    return re.sub(r"(?<=://)[^/@]*@", "***@", value) if isinstance(value, str) else value


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _credentials(value: SecretStr | None) -> SecretStr | None:
    # What HTTP's basic authentication can carry; the value itself is in no message.
    if value is not None and not re.fullmatch(r"[!-9;-~]+:[!-~]{8,}", value.get_secret_value()):
        raise ValueError("must be user:password, printable ASCII without spaces, the password of 8 characters or more")
    return value


def _bearer(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be a key as `millrace keys create` shows it")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
OpenUrl = Annotated[str, AfterValidator(_without_user)]
Address = Annotated[str, AfterValidator(_address)]
Credentials = Annotated[SecretStr | None, AfterValidator(_credentials)]
Bearer = Annotated[SecretStr | None, AfterValidator(_bearer)]


class Settings(BaseSettings):
    """Service URLs, state folder, secrets. A company's cluster differs from a laptop in these values only."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    state_dir: Path = Field(default=Path(".millrace"), description="Folder of all local state.")
    pipelines_dir: Path = Field(default=Path("pipelines"), description="Folder of pipeline folders.")
    prefect_url: HttpUrl = Field(default="http://127.0.0.1:4200", description="Prefect server, without /api.")
    mlflow_url: HttpUrl = Field(default="http://127.0.0.1:5000", description="MLflow tracking and registry.")
    serve_url: HttpUrl = Field(default="http://127.0.0.1:8000", description="Where predictions are asked.")
    ray_port: int = Field(default=6379, ge=1024, le=65535, description="Port of the local Ray head (GCS).")
    ray_address: OpenUrl | None = Field(default=None, description="Ray to join; none: the local head.")
    objects_url: OpenUrl | None = Field(
        default=None, description="fsspec URL of the object store (s3://bucket/prefix); none: <state_dir>/objects."
    )
    ledger_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the ledger; none: SQLite at <state_dir>/ledger.db."
    )
    signing_key_file: Path | None = Field(
        default=None,
        description="Private key that signs artifacts, only needed where they are made; the public keys that are "
        "trusted lie beside it, in the file with the suffix .pub; none: <state_dir>/signing.key.",
    )
    listen: Address = Field(
        default="127.0.0.1",
        description="IP address where Prefect, MLflow and Serve's ingress listen, beside loopback; any but loopback "
        "needs prefect_auth and mlflow_auth, and predictions then need a key.",
    )
    prefect_auth: Credentials = Field(
        default=None, description="user:password that Prefect's server demands and that we send to it."
    )
    mlflow_auth: Credentials = Field(
        default=None, description="user:password that MLflow's server demands and that we send to it."
    )
    keys_file: Path | None = Field(
        default=None, description="Hashes of the keys that may ask for predictions; none: <state_dir>/keys.json."
    )
    serve_key: Bearer = Field(
        default=None, description="The key that our own replay and demo send, where predictions need one."
    )
    approver_keys: Path = Field(
        default=Path("~/.config/millrace/approvers"), description="Folder of your private keys as an approver."
    )
    otlp_url: HttpUrl | None = Field(
        default=None,
        description="Collector of OpenTelemetry that traces are sent to, by OTLP over HTTP, without /v1/traces; none: "
        "OTEL_EXPORTER_OTLP_ENDPOINT, or none.",
    )
    work_pool: str = Field(default="millrace", description="Prefect work pool whose worker runs the flows.")
    start_seconds: float = Field(
        default=20.0,
        gt=0,
        description="How long a flow run may take from its worker to its first line before another process takes it "
        "over; minutes where a pod is scheduled and its image pulled first.",
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Log level.")
    log_json: bool = Field(default=False, description="One JSON object a line instead of coloured text.")

    @cached_property
    def state(self) -> Path:
        """The state folder as an absolute path."""
        return self.state_dir.expanduser().absolute()

    @cached_property
    def pipelines(self) -> Path:
        return self.pipelines_dir.expanduser().absolute()

    @property
    def keys_dir(self) -> Path:
        """The folder of private keys as an absolute path."""
        return self.approver_keys.expanduser().absolute()

    @property
    def prefect_api_url(self) -> str:
        return f"{self.prefect_url}/api"

    @property
    def objects(self) -> str:
        """URL of the object store's root; a folder's is absolute."""
        url = self.objects_url or str(self.state / "objects")
        return url.rstrip("/") if "://" in url else str(Path(url).expanduser().absolute())

    @property
    def ledger(self) -> str:
        """SQLAlchemy URL of the ledger; it may carry a password, so it is never logged."""
        return self.ledger_url.get_secret_value() if self.ledger_url else f"sqlite:///{self.state}/ledger.db"

    @property
    def signing_key(self) -> Path:
        """Absolute path of the private key that signs artifacts."""
        return (self.signing_key_file or self.state / "signing.key").expanduser().absolute()

    @property
    def keys_path(self) -> Path:
        """Absolute path of the file with the hashes of the serving keys."""
        return (self.keys_file or self.state / "keys.json").expanduser().absolute()

    @property
    def listens_elsewhere(self) -> bool:
        """Whether anything listens beyond loopback."""
        return not ipaddress.ip_address(self.listen).is_loopback

    @property
    def prefect_headers(self) -> dict[str, str]:
        """What a request to Prefect must carry; secret."""
        return _basic(self.prefect_auth)

    @property
    def mlflow_headers(self) -> dict[str, str]:
        """What a request to MLflow must carry; secret."""
        return _basic(self.mlflow_auth)

    @property
    def local_key(self) -> Path:
        """Absolute path of the key for predictions that `millrace up` makes for whoever can read the state folder."""
        return self.state / "serve.key"

    @property
    def serve_headers(self) -> dict[str, str]:
        """What a request for predictions must carry; secret."""
        key = None if self.serve_key is None else self.serve_key.get_secret_value()
        if key is None and self.local_key.is_file() and urlsplit(self.serve_url).hostname in _LOOPBACK:
            key = self.local_key.read_text().strip()
            secrets.remember(key)
        return {} if key is None else {"authorization": f"Bearer {key}"}

    @property
    def collector(self) -> str | None:
        """Where traces are sent, without /v1/traces; None: nowhere. What OpenTelemetry's own variables say counts where
        `otlp_url` is not set, and where they ask for no other protocol.

        Raises:
            SettingsError: the variable holds no URL.
        """
        found = os.environ.get(_OTLP_ENDPOINT)
        if self.otlp_url or not found or os.environ.get(_OTLP_PROTOCOL, _OTLP_HTTP) != _OTLP_HTTP:
            return self.otlp_url
        try:
            return _http_url(found)
        except ValueError as error:
            raise SettingsError(
                f"environment variable {_OTLP_ENDPOINT} has a bad value",
                got=_without_password(found),
                allowed=str(error),
                next=f"correct {_OTLP_ENDPOINT}, or set {_PREFIX}OTLP_URL",
            ) from None

    @property
    def ray(self) -> str:
        return self.ray_address or f"127.0.0.1:{self.ray_port}"

    @classmethod
    def secret_fields(cls) -> tuple[str, ...]:
        """Names of the settings that are secrets themselves."""
        return tuple(
            name
            for name, field in cls.model_fields.items()
            if field.annotation is SecretStr or SecretStr in get_args(field.annotation)
        )

    @classmethod
    def secret_variables(cls) -> frozenset[str]:
        """The environment variables that hold them."""
        return frozenset(f"{_PREFIX}{name.upper()}" for name in cls.secret_fields())

    def secret_values(self) -> Iterator[str]:
        """What must not be told: the secret settings, the passwords in their URLs, and what their key files hold."""
        for name in self.secret_fields():
            if (value := getattr(self, name)) is not None:
                yield value.get_secret_value()
                yield from secrets.url_passwords(value.get_secret_value())
                # Of `user:password` the password alone is one too.
                yield value.get_secret_value().partition(":")[2]
        named = [getattr(self, name) for name in type(self).model_fields if name.endswith("_file")]
        for path in {self.signing_key, self.local_key, *(path for path in named if isinstance(path, Path))}:
            if path.is_file():
                yield from _file_secrets(path)

    def __getstate__(self) -> dict[Any, Any]:
        # A secret does not travel: Ray keeps what it sends to its workers, and logs parts of it.
        state = super().__getstate__()
        there = [name for name in self.secret_fields() if state["__dict__"].get(name) is not None]
        values = {name: None if name in there else value for name, value in state["__dict__"].items()}
        return {**state, "__dict__": values, "secrets": there}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        values = dict(state["__dict__"])
        for name in state["secrets"]:
            variable = f"{_PREFIX}{name.upper()}"
            if variable not in os.environ:
                raise SettingsError(
                    f"{variable} is not set in this process",
                    next="secrets do not travel between processes: set it for each of them, the Ray cluster's too",
                )
            values[name] = SecretStr(os.environ[variable])
        super().__setstate__({**state, "__dict__": values})
        secrets.remember(*self.secret_values())

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, absolute, for a child process in any folder."""
        values = {
            name: str(value.get_secret_value() if isinstance(value, SecretStr) else value)
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }
        values |= {
            "state_dir": str(self.state),
            "pipelines_dir": str(self.pipelines),
            "approver_keys": str(self.keys_dir),
        }
        if self.objects_url is not None:
            values["objects_url"] = self.objects
        if self.signing_key_file is not None:
            values["signing_key_file"] = str(self.signing_key)
        if self.keys_file is not None:
            values["keys_file"] = str(self.keys_path)
        return {f"{_PREFIX}{name.upper()}": value for name, value in values.items()}


def _file_secrets(path: Path) -> Iterator[str]:
    content = path.read_bytes()[:_MAX_KEY_BYTES]
    yield content.hex()
    text = content.decode(errors="replace")
    yield from (text.strip(), *(line.strip() for line in text.splitlines()))


def _basic(auth: SecretStr | None) -> dict[str, str]:
    if auth is None:
        return {}
    return {"authorization": f"Basic {base64.b64encode(auth.get_secret_value().encode()).decode()}"}


def load_settings() -> Settings:
    """Settings from the environment.

    Raises:
        SettingsError: a variable has a bad value, or a `MILLRACE_` variable is no setting.
    """
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(_PREFIX) and name not in known:
            raise SettingsError(
                f"environment variable {name} is not a setting",
                allowed=nearest(name, known),
                next=f"unset {name}, or correct its name",
            )
    try:
        settings = Settings()
        secrets.remember(*settings.secret_values())
        return settings
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        name = f"{_PREFIX}{field}".upper()
        is_secret = SecretStr in get_args(Settings.model_fields[field].annotation)
        raise SettingsError(
            f"environment variable {name} has a bad value",
            got=None if is_secret else _without_password(first["input"]),
            allowed=first["msg"].removeprefix("Value error, "),
            next=f"correct {name}",
        ) from None
