"""Asking a part whether it is ready."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

LOOPBACK_HOSTS = ("127.0.0.1", "localhost")


def ask(
    url: str, *, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, timeout_s: float = 2.0
) -> tuple[int, bytes]:
    """Status and body of one request; status 0 when nothing answers. No proxy is ever used."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
    sent = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
    try:
        if body is None:
            connection.request("GET", parts.path or "/", headers=sent)
        else:
            connection.request("POST", parts.path, body=json.dumps(body), headers=sent)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def answers(url: str, headers: Mapping[str, str] | None = None) -> bool:
    return ask(url, headers=headers)[0] == http.client.OK


def listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
