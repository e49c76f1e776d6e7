"""Every listener of a running stack, and what each gives to who has no credentials: from another machine, and here."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.reliability.namespace import neighbour, why_not
from benchmarks.reliability.probe import Probed, probe
from infra.local.processes import members, read_record
from infra.local.status import NAMES
from millrace.errors import ServiceError
from millrace.settings import Settings

_PROBE_SECONDS = 540.0


@dataclass(frozen=True, order=True)
class Listener:
    """A socket that takes what others send; `protocol` is tcp or udp."""

    part: str
    protocol: str
    host: str
    port: int
    process: str

    @property
    def is_loopback(self) -> bool:
        address = ipaddress.ip_address(self.host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    def __str__(self) -> str:
        return f"{self.part}: {self.process} at {self.protocol} {self.host}:{self.port}"


def listeners(settings: Settings) -> list[Listener]:
    """All TCP and UDP listeners, IPv4 and IPv6, of every process of the stack."""
    run = settings.state / "run"
    owners: dict[int, tuple[str, str]] = {}
    for part in NAMES:
        # Serve has no process of its own; it lives in Ray's.
        for process in members(settings.state, part, read_record(run, part)):
            owners[process.pid] = (part, _name(process))
    found = set()
    for connection in psutil.net_connections("inet"):
        is_tcp = connection.type == 1
        takes = connection.status == psutil.CONN_LISTEN if is_tcp else not connection.raddr
        if takes and connection.pid in owners and connection.laddr:
            part, name = owners[connection.pid]
            host, port = connection.laddr[:2]
            found.add(Listener(part, "tcp" if is_tcp else "udp", host, port, name))
    return sorted(found)


def from_outside(ports: Mapping[int, Listener]) -> tuple[list[Probed], str | None]:
    """What the ports give to a client in another network namespace; the second is why that was not possible."""
    if (reason := why_not()) is not None:
        return [], reason
    with neighbour() as box:
        asked = ["-m", "benchmarks.reliability.probe", box.address, *map(str, sorted(ports))]
        return [Probed(**found) for found in json.loads(box.python(*asked, seconds=_PROBE_SECONDS))], None


def from_here(ports: Mapping[int, Listener]) -> list[Probed]:
    """What Ray's ports give over gRPC to a process of this machine that has no token, or a wrong one."""
    return [probe("127.0.0.1", port, http=False) for port, found in sorted(ports.items()) if found.part == "ray"]


def measure(settings: Settings) -> dict[str, Any]:
    """The figures of a running stack; `unprotected_listeners` counts ports that serve who has no credentials.

    Where there can be no namespace, every listener beyond loopback counts.

    Raises:
        ServiceError: the stack does not run: nothing listens.
    """
    found = listeners(settings)
    if not found:
        raise ServiceError(f"no stack runs in {settings.state}: nothing listens", next="start it with `millrace up`")
    ports = {listener.port: listener for listener in found if listener.protocol == "tcp"}
    outside, reason = from_outside(ports)
    here = from_here(ports)
    beyond = [listener for listener in found if not listener.is_loopback]
    open_ports = {probed.port for probed in (*outside, *here) if probed.served}
    if reason is not None:
        open_ports |= {listener.port for listener in beyond}
    return {
        "listeners": len(found),
        "beyond_loopback": len(beyond),
        "asked_from_outside": len(outside),
        "reached_from_outside": sum(probed.reached for probed in outside),
        "not_asked_from_outside": reason,
        "calls_refused_for_want_of_a_token": sum(probed.refused for probed in here),
        "unprotected_listeners": len(open_ports),
        "unprotected": sorted(f"{ports[port]}" for port in open_ports & ports.keys()),
    }


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])[-60:] or process.name()
    except psutil.Error:
        return "?"
