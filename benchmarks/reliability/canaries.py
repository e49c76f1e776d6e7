"""Plant canary secrets where real ones get in, run what people run, and look for them everywhere.

`python -m benchmarks.reliability.canaries` does it on a stack of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from benchmarks.reliability.leaks import files, scan
from benchmarks.reliability.leaky import NAME, give_orders, told, write_pipeline
from benchmarks.reliability.nest import Nest
from infra.local.ports import free_ports
from millrace.settings import Settings

#: Variables that hold canaries before the stack starts: what the pipeline refers to, and what its cloud SDK reads.
URL_VARIABLE = "CANARY_ROWS_URL_PART"
KEY_VARIABLES = ("CANARY_FIRST", "CANARY_SECOND", "CANARY_THIRD")
CLOUD_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WAREHOUSE_PASSWORD")

_AS_OF = "2024-02-20"
_TIMEOUT_SECONDS = 300.0
_ROOT = Path(__file__).resolve().parents[2]

#: Runs the `millrace` command with these arguments and further variables.
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass
class Planting:
    """Canaries on their way into a running stack; `texts` is what the commands said to their terminals."""

    nest: Nest
    orders: Path
    texts: list[tuple[str, str]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Secrets that the stack's processes find in their environment: set before `millrace up`."""
        names = (URL_VARIABLE, *KEY_VARIABLES, *CLOUD_VARIABLES)
        return dict(zip(names, self.nest.take(len(names)), strict=True))

    def plant(self, settings: Settings, millrace: Command) -> None:
        """Give all canaries out, in every way; the stack of `settings` runs with `environment` in its own."""
        write_pipeline(settings.pipelines, self.orders, URL_VARIABLE, KEY_VARIABLES)
        self._commands(settings, millrace)
        http = self.nest.left // 5
        share, rest = divmod(self.nest.left - http, 6)
        # Errors and what they were made of, where the flow runs, in Ray's tasks, and in Ray Train's workers.
        self._run(millrace, 2, import_={"fail": told(self.nest.take(share + rest)), "kind": "runtime"})
        self._run(millrace, 3, extent={"fail": told(self.nest.take(share)), "kind": "sqlalchemy"})
        self._run(millrace, 3, extent={"options": True})
        self._run(millrace, 3, rows={"fail": told(self.nest.take(share)), "kind": "group"})
        tell, fail = self.nest.take(share), self.nest.take(share)
        self._run(millrace, 5, rows={"tell": told(tell)}, build={"fail": told(fail), "kind": "httpx"})
        # A success that talks.
        self._run(millrace, 0, build={"tell": told(self.nest.take(share))})
        self._requests(settings, self.nest.take(http))

    def _run(self, millrace: Command, code: int, **orders: dict[str, object]) -> None:
        give_orders(self.orders, {name.rstrip("_"): what for name, what in orders.items()})
        done = millrace("run", NAME, "--as-of", _AS_OF)
        self._keep(done)
        give_orders(self.orders, {})
        if done.returncode not in (code, 1):
            raise AssertionError(f"exit code {done.returncode} instead of {code}: {done.stdout}{done.stderr}")

    def _commands(self, settings: Settings, millrace: Command) -> None:
        """Mistakes of people at the command line, and of what starts their processes."""
        a, b, c, d, e, f, g, h, i = self.nest.take(9)
        ledger = "MILLRACE_LEDGER_URL"
        calls: list[tuple[Sequence[str], Mapping[str, str]]] = [
            (("new", "rows", "--from", f"https://u:{a}@127.0.0.1:9/r.csv", "--time", "at", "--label", "y"), {}),
            (("run", f"postgresql://u:{b}@db/rows"), {}),
            (("run", NAME, "--as-of", f"password={c}"), {}),
            (("status", f"--token={d}"), {}),
            (("rollback", NAME), {ledger: f"postgresql://u:{e}@127.0.0.1:9/ledger"}),
            (("rollback", NAME), {ledger: f"nodatabase://u:{f}@127.0.0.1/ledger"}),
            (("versions", NAME), {"MILLRACE_MLFLOW_URL": f"http://u:{g}@127.0.0.1:9"}),
            (("validate", NAME), {"MILLRACE_OBJECTS_URL": f"s3://key:{h}@bucket/prefix"}),
        ]
        with ThreadPoolExecutor(2) as pool:
            for done in pool.map(lambda call: millrace(*call[0], **call[1]), calls):
                self._keep(done)
                if done.returncode == 0:
                    raise AssertionError(f"{done.args} was expected to fail")
        # Parameters that the deployment does not have: Prefect answers, and must not keep them.
        with httpx.Client(base_url=settings.prefect_api_url, headers=settings.prefect_headers) as client:
            found = client.get("/deployments/name/training/training").raise_for_status().json()
            body = {"parameters": {"pipeline": [NAME], "password": i}, "state": {"type": "SCHEDULED"}}
            refused = client.post(f"/deployments/{found['id']}/create_flow_run", json=body)
        if not refused.is_client_error:
            raise AssertionError(f"Prefect takes parameters that do not fit: {refused.status_code}")

    def _requests(self, settings: Settings, canaries: Sequence[str]) -> None:
        """Credentials in requests for predictions: headers, bodies, paths, queries."""
        url, row = f"{settings.serve_url}/v1/{NAME}", {"x": 0.5}
        ways: list[Callable[[str], dict[str, Any]]] = [
            lambda s: {"headers": {"authorization": f"Bearer {s}"}, "json": {"rows": [row]}},
            lambda s: {"headers": {"x-api-key": s, "cookie": f"session={s}"}, "json": {"rows": [row]}},
            lambda s: {"json": {"rows": [row], "password": s}},
            lambda s: {"json": {"rows": [{**row, "token": s}]}},
            lambda s: {"json": {"rows": [{"x": s}]}},
            lambda s: {"content": f'{{"rows": [{{"x": 0.5}}], "secret": "{s}"'},
            lambda s: {"headers": {"x-request-id": f"bearer {s}"}, "json": {"rows": [row]}},
        ]
        with httpx.Client(timeout=_TIMEOUT_SECONDS, headers=settings.serve_headers) as client:
            for number, canary in enumerate(canaries):
                client.post(f"{url}/predict", **ways[number % len(ways)](canary))
            client.get(f"{url}/{canaries[0]}")
            client.post(f"{url}/predict", params={"api_key": canaries[0]}, json={"rows": [row]})

    def _keep(self, done: subprocess.CompletedProcess[str]) -> None:
        self.texts.append((f"the answer of millrace {done.args[3]}", done.stdout + done.stderr))


def measure(count: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Plant `count` canaries in a stack of its own: how many were planted and found, and where (at most ten places)."""
    with tempfile.TemporaryDirectory(prefix="millrace-canaries-") as name:
        folder = Path(name)
        planting = Planting(Nest(count, seed), folder / "orders.json")
        prefect, mlflow, serve, ray = free_ports(4)
        settings = Settings(
            state_dir=folder / "state",
            pipelines_dir=folder / "pipelines",
            prefect_url=f"http://127.0.0.1:{prefect}",
            mlflow_url=f"http://127.0.0.1:{mlflow}",
            serve_url=f"http://127.0.0.1:{serve}",
            ray_port=ray,
            prefect_auth=_user(planting.nest),
            mlflow_auth=_user(planting.nest),
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
        env = inherited | settings.environment() | planting.environment()

        def millrace(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "flows.cli", *arguments],
                cwd=_ROOT,
                env=env | extra,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )

        try:
            up = millrace("up")
            if up.returncode != 0:
                raise AssertionError(up.stderr)
            started = time.perf_counter()
            planting.plant(settings, millrace)
            found = scan(settings, planting.nest, planting.texts)
            seconds = time.perf_counter() - started
        finally:
            millrace("down")
        after = scan_files(settings, planting.nest)
    return answer(planting.nest, found | after, seconds)


def _user(nest: Nest) -> SecretStr:
    """A user whose password is a canary."""
    (password,) = nest.take(1)
    return SecretStr(f"operator:{password}")


def scan_files(settings: Settings, nest: Nest) -> dict[str, set[str]]:
    """What a stopped stack has left in its files."""
    found: dict[str, set[str]] = {}
    for where, content in files(settings.state, frozenset()):
        if canaries := set(nest.find(content)):
            found[where] = canaries
    return found


def answer(nest: Nest, found: Mapping[str, set[str]], seconds: float) -> dict[str, Any]:
    """The figures of a scan; a piece of a canary counts like a whole one."""
    told_of = set().union(*found.values()) if found else set()
    return {
        "planted_secrets": nest.count - nest.left,
        "found_secrets": len(told_of),
        "places": sorted(found)[:10],
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
