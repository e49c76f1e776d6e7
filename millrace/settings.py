"""Where services live, where state lives, and secrets: the only thing the environment may set.

Each field is read from `MILLRACE_<FIELD>`; nothing about a pipeline is set here (that is `pipeline.yaml`).
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from millrace.errors import SettingsError, nearest

_PREFIX = "MILLRACE_"


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.scheme == "http" and parts.port is None:
        raise ValueError("must name its port, for example http://127.0.0.1:4200")
    return value.rstrip("/")


def _without_password(value: object) -> object:
    return re.sub(r"(?<=://)[^/@]*@", "***@", value) if isinstance(value, str) else value


HttpUrl = Annotated[str, AfterValidator(_http_url)]


class Settings(BaseSettings):
    """Service URLs, state folder, secrets. A company's cluster differs from a laptop in these values only."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    state_dir: Path = Field(default=Path(".millrace"), description="Folder of all local state.")
    pipelines_dir: Path = Field(default=Path("pipelines"), description="Folder of pipeline folders.")
    prefect_url: HttpUrl = Field(default="http://127.0.0.1:4200", description="Prefect server, without /api.")
    mlflow_url: HttpUrl = Field(default="http://127.0.0.1:5000", description="MLflow tracking and registry.")
    serve_url: HttpUrl = Field(default="http://127.0.0.1:8000", description="Where predictions are asked.")
    ray_port: int = Field(default=6379, ge=1024, le=65535, description="Port of the local Ray head (GCS).")
    ray_address: str | None = Field(default=None, description="Ray to join; none: the local head.")
    objects_url: str | None = Field(
        default=None, description="fsspec URL of the object store (s3://bucket/prefix); none: <state_dir>/objects."
    )
    ledger_url: SecretStr | None = Field(
        default=None, description="SQLAlchemy URL of the ledger; none: SQLite at <state_dir>/ledger.db."
    )
    approver_keys: Path = Field(
        default=Path("~/.config/millrace/approvers"), description="Folder of your private keys as an approver."
    )
    work_pool: str = Field(default="millrace", description="Prefect work pool whose worker runs the flows.")
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
    def ray(self) -> str:
        return self.ray_address or f"127.0.0.1:{self.ray_port}"

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
        return {f"{_PREFIX}{name.upper()}": value for name, value in values.items()}


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
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{_PREFIX}{first['loc'][0]}".upper()
        raise SettingsError(
            f"environment variable {name} has a bad value",
            got=_without_password(first["input"]),
            allowed=first["msg"].removeprefix("Value error, "),
            next=f"correct {name}",
        ) from None
