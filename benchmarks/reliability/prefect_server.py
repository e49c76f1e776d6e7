"""A Prefect server of one's own, to be killed: real, on a free port, with a deployment whose runs nobody takes."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.reliability.api import Api
from infra.local import parts
from infra.local.layout import Layout
from infra.local.ports import free_ports
from millrace.settings import Settings

#: The server has no worker here, so every run is late; marking them all would be work that no real server has.
_QUIET = {"PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false"}
_READY_SECONDS = 120.0
_PAGE = 200


class PrefectServer:
    """The server process below `folder`; `restart` brings it back on the same port and database.

    Raises:
        TimeoutError: it does not answer.
    """

    def __init__(self, folder: Path) -> None:
        # free_ports looks at the port beside each as well, so the second is spare.
        (port,) = free_ports(1)
        self.settings = Settings(state_dir=folder, prefect_url=f"http://127.0.0.1:{port}")
        self._layout = Layout(self.settings.state)
        self._part = parts.prefect(self.settings, self._layout)
        self._process: subprocess.Popen[bytes] | None = None
        for needed in (self._layout.run, self._layout.logs, self.settings.state / "prefect"):
            needed.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill what runs, start it again and wait until it answers."""
        self.kill()
        with self._layout.log("prefect").open("ab") as log:
            self._process = subprocess.Popen(
                list(self._part.command),
                env=self._part.env(self.settings) | _QUIET,
                cwd=self.settings.state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.await_ready()

    def await_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._part.ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Prefect at {self.settings.prefect_url} was not ready in {_READY_SECONDS:.0f} s")
            time.sleep(0.1)

    def register_training(self) -> str:
        """A deployment `training/training` on a work pool without a worker: its runs stay as scheduled. Its id."""
        with Api(self.settings) as api:
            flow = api.post("/flows/", {"name": "training"})
            api.post("/work_pools/", {"name": self.settings.work_pool, "type": "process"})
            deployment = {
                "name": "training",
                "flow_id": flow["id"],
                "work_pool_name": self.settings.work_pool,
                "entrypoint": "flows/training.py:training",
                "enforce_parameter_schema": False,
                "tags": ["millrace"],
            }
            return str(api.post("/deployments/", deployment)["id"])

    def register_trigger(self, deployment: str, event: str, parameters: dict[str, str]) -> None:
        """An automation that runs `deployment` for each `event`, its parameters templated, as `prefect deploy` does."""
        automation = {
            "name": "train-on-event",
            "trigger": {
                "type": "event",
                "match": {"prefect.resource.id": "millrace.pipeline.*"},
                "expect": [event],
                "posture": "Reactive",
                "threshold": 1,
                "within": 0,
            },
            "actions": [{"type": "run-deployment", "deployment_id": deployment, "parameters": parameters}],
        }
        with Api(self.settings) as api:
            api.post("/automations/", automation)

    def runs_by_incident(self) -> Counter[str]:
        """How many runs name which incident in their parameters, malformed names included."""
        return Counter(str(run["parameters"].get("incident")) for run in self._runs())

    def count_runs(self) -> int:
        with Api(self.settings) as api:
            return int(api.post("/flow_runs/count", {}))

    def _runs(self) -> Iterator[dict[str, Any]]:
        offset = 0
        with Api(self.settings) as api:
            while page := api.post("/flow_runs/filter", {"limit": _PAGE, "offset": offset, "sort": "ID_DESC"}):
                yield from page
                offset += len(page)
