"""Who may come in: where the servers of a stack listen, and what they demand of who asks."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from millrace.errors import SettingsError
from millrace.settings import Settings

LOOPBACK = "127.0.0.1"


def listen_hosts(settings: Settings) -> tuple[str, ...]:
    """The addresses where Prefect, MLflow and Serve's ingress listen; our own parts ask on loopback."""
    address = ipaddress.ip_address(settings.listen)
    if address.is_unspecified and address.version == 4:
        return (settings.listen,)
    return (LOOPBACK,) if settings.listen == LOOPBACK else (LOOPBACK, settings.listen)


def require(settings: Settings) -> None:
    """Refuse to start what would be open to others.

    Raises:
        SettingsError: something listens or is asked beyond loopback, and no credentials are set; or this machine has
            no such address.
    """
    for part, url, auth in (
        ("Prefect", settings.prefect_url, settings.prefect_auth),
        ("MLflow", settings.mlflow_url, settings.mlflow_auth),
    ):
        if auth is not None:
            continue
        name = f"MILLRACE_{part.upper()}_AUTH"
        setting = f"set {name}=user:password"
        if settings.listens_elsewhere:
            raise SettingsError(
                f"{part} would listen beyond loopback and let everybody in",
                got=f"MILLRACE_LISTEN={settings.listen}",
                allowed="127.0.0.1 without credentials",
                next=f"{setting}, or unset MILLRACE_LISTEN",
            )
        if not _is_safe(url):
            raise SettingsError(
                f"{part} is asked in clear text beyond loopback, by everybody who likes",
                got=url,
                allowed="https, or loopback, or credentials",
                next=setting,
            )
    family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((settings.listen, 0))
        except OSError as error:
            raise SettingsError(
                "environment variable MILLRACE_LISTEN names no address of this machine",
                got=settings.listen,
                allowed="127.0.0.1, 0.0.0.0, or an address that `ip address` shows",
                next=f"correct MILLRACE_LISTEN ({error.strerror})",
            ) from error


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
