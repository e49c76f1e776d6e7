"""Nobody calls home: a whole loop, while every packet that leaves this machine is seen. None does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.local.ports import free_ports
from millrace.settings import Settings
from tests.e2e.conftest import drifting_table

_ROOT = Path(__file__).resolve().parents[2]
_UNSHARE = ["unshare", "--map-root-user", "--net"]
_SECONDS = 600

ASK = """
import json, os, urllib.request
from millrace.settings import load_settings
body = json.dumps({"rows": [{"x": 0.1, "y": 0.2, "plan": "basic"}]}).encode()
url = os.environ["MILLRACE_SERVE_URL"] + "/v1/quiet/predict"
request = urllib.request.Request(url, body, {"content-type": "application/json"} | load_settings().serve_headers)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
CALLS_HOME = """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", ("192.0.2.1", 4000))
connection = socket.socket()
connection.setblocking(False)
connection.connect_ex(("192.0.2.2", 443))
"""


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    """Network namespaces are a matter of the kernel's settings (unprivileged ones may be switched off)."""
    tried = subprocess.run([*_UNSHARE, "test", "-w", "/dev/net/tun"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no network namespace with a TUN device here: {tried.stderr.strip() or '/dev/net/tun'}")


def away(commands: list[list[str]], **variables: str) -> dict[str, Any]:
    """Run the commands where the network leads nowhere; what was sent, and what they said."""
    done = subprocess.run(
        [*_UNSHARE, sys.executable, "-m", "tests.integration.outgoing", json.dumps(commands)],
        cwd=_ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


_OWN_NAME = r"asks for b'\x011\x010\x010\x03127\x07in-addr\x04arpa"


def test_a_process_that_calls_home_is_seen() -> None:
    found = away([[sys.executable, "-c", CALLS_HOME]])
    sent = {packet.partition(", from ")[0] for packet in found["seen"]}
    assert {"udp to 192.0.2.1:4000", "tcp to 192.0.2.2:443"} <= sent


@pytest.mark.drill
@pytest.mark.timeout(_SECONDS)
def test_the_whole_loop_sends_nothing_off_this_machine(tmp_path: Path) -> None:
    table = tmp_path / "quiet.csv"
    drifting_table(table)
    prefect, mlflow, serve, ray = free_ports(4)
    settings = Settings(
        state_dir=tmp_path / "state",
        pipelines_dir=tmp_path / "pipelines",
        prefect_url=f"http://127.0.0.1:{prefect}",
        mlflow_url=f"http://127.0.0.1:{mlflow}",
        serve_url=f"http://127.0.0.1:{serve}",
        ray_port=ray,
    )
    millrace = [sys.executable, "-m", "flows.cli"]
    commands = [
        [*millrace, "new", "quiet", "--from", str(table), "--time", "asked_at", "--label", "left"],
        [*millrace, "up"],
        [*millrace, "run", "quiet", "--as-of", "2024-04-01"],
        [*millrace, "replay", "quiet", "--start", "2024-04-01", "--end", "2024-05-01"],
        [*millrace, "check", "quiet", "--as-of", "2024-05-01"],
        [sys.executable, "-c", ASK],
        [*millrace, "status"],
        [*millrace, "down"],
    ]
    found = away(commands, **settings.environment())
    told = "\n".join(said["err"] for said in found["said"])
    assert [said["code"] for said in found["said"]] == [0] * len(commands), f"{found['seen']}\n{told}"
    assert json.loads(found["said"][5]["out"])["version"] == "1"
    # torch asks the resolver what its peer is called, to write it into messages, and has no switch for it: the peer is
    # ::ffff:127.0.0.1, which /etc/hosts does not have. That tells nobody anything.
    seen = [packet for packet in found["seen"] if _OWN_NAME not in packet]
    assert seen == [], "nothing was sent, and no name was looked up"
