"""A client machine in a box: a network namespace of its own, one cable to this machine. Linux, root, `ip`."""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_PREFIX = "mrdoor"
#: Set apart for tests of networks (RFC 2544): nobody's real address.
_NETWORK = ipaddress.ip_network("198.18.0.0/15")
_SECONDS = 60


@dataclass(frozen=True)
class Neighbour:
    """The box: its name, and the address at which it finds this machine."""

    name: str
    address: str

    def run(self, command: Sequence[str], *, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        """Run a command inside; it is killed after `seconds`."""
        inside = ["ip", "netns", "exec", self.name, *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=seconds, check=False)

    def python(self, *arguments: str, seconds: float = _SECONDS) -> str:
        """What `python ARGUMENTS` prints inside.

        Raises:
            RuntimeError: it fails.
        """
        done = self.run([sys.executable, *arguments], seconds=seconds)
        if done.returncode != 0:
            raise RuntimeError(f"python {' '.join(arguments)} failed in {self.name}: {done.stderr[-1000:]}")
        return done.stdout


def why_not() -> str | None:
    """Why there can be no neighbour here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux'"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the `ip` command is not installed"
    try:
        with neighbour():
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces do not work here: {error.stderr.strip()}"


@contextmanager
def neighbour() -> Iterator[Neighbour]:
    """A namespace with a cable to this one, both gone at the end.

    Raises:
        subprocess.CalledProcessError: the kernel refuses.
    """
    _sweep()
    name = f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
    # Names of interfaces have 15 characters at most.
    ours, theirs = (f"md{side}{secrets.token_hex(4)}" for side in "ab")
    first = int(_NETWORK.network_address) + 4 * secrets.randbelow(_NETWORK.num_addresses // 4)
    host, client = (str(ipaddress.ip_address(first + offset)) for offset in (1, 2))
    _ip("netns", "add", name)
    try:
        _ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
        _ip("address", "add", f"{host}/30", "dev", ours)
        _ip("link", "set", ours, "up")
        for arguments in (["address", "add", f"{client}/30", "dev", theirs], ["link", "set", theirs, "up"]):
            _ip("-n", name, *arguments)
        _ip("-n", name, "link", "set", "lo", "up")
        yield Neighbour(name, host)
    finally:
        # The cable's end goes with its namespace, and the other end with it.
        _ip("netns", "del", name)


def _sweep() -> None:
    """Remove the boxes of processes that were killed."""
    for path in Path("/var/run/netns").glob(f"{_PREFIX}-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            _ip("netns", "del", path.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10, check=True)
