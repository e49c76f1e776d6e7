"""Whether what answers is what the ledger says serves, and by which rules; if not, the `restore` flow puts it right."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from millrace.errors import ServiceError
from millrace.faults import fault_point
from millrace.ledger import Entry, Ledger
from millrace.logs import get_logger
from millrace.settings import Settings
from tasks import endpoint
from tasks.prefect_api import submit
from tasks.turns import each_in_turn

RESTORE = "restore/restore"

#: Seconds between two looks, seconds that a difference may last (a rollout is on its way), and seconds that a restore
#: is given before another is started.
LOOK_SECONDS = 2.0
TOLERATED_SECONDS = 4.0
RESTORE_SECONDS = 60.0

_TIMEOUT_SECONDS = 2.0


@dataclass
class ServingWatch:
    """Compares each pipeline's endpoint and alias with the ledger."""

    settings: Settings
    ledger: Ledger
    clock: Callable[[], float] = time.monotonic
    _looked: float = float("-inf")
    _differs_since: dict[str, float] = field(default_factory=dict)
    _restored: dict[str, float] = field(default_factory=dict)

    def tick(self) -> None:
        """Look at each pipeline that serves a version."""
        now = self.clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        each_in_turn(self.ledger.all_serving(), lambda entry: self._look(entry, now))

    def _look(self, entry: Entry, now: float) -> None:
        name = entry.pipeline
        if self._agrees(entry) or self.ledger.slots.holder(name, "serving") is not None:
            self._differs_since.pop(name, None)
            return
        since = self._differs_since.setdefault(name, now)
        if now - since >= TOLERATED_SECONDS and now - self._restored.get(name, -RESTORE_SECONDS) >= RESTORE_SECONDS:
            get_logger().warning("something else answers than the ledger says", pipeline=name, version=entry.subject)
            submit(self.settings, RESTORE, {"pipeline": name})
            self._restored[name] = now

    def _agrees(self, entry: Entry) -> bool:
        """Whether endpoint and alias are as the ledger says; a service that is away disagrees with nothing."""
        return self._endpoint_agrees(entry) and self._alias_agrees(entry)

    def _endpoint_agrees(self, entry: Entry) -> bool:
        answer = endpoint.ask(self.settings, entry.pipeline)
        if answer is None:
            return True
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        if not answer.is_success:
            return True
        found = endpoint.described(answer)
        return found is not None and endpoint.is_by_ledger(found, entry, self.ledger.traffic(entry.pipeline))

    def _alias_agrees(self, entry: Entry) -> bool:
        try:
            with fault_point("mlflow.read_alias"):
                answer = httpx.get(
                    f"{self.settings.mlflow_url}/api/2.0/mlflow/registered-models/alias",
                    params={"name": entry.pipeline, "alias": "champion"},
                    headers=self.settings.mlflow_headers,
                    timeout=_TIMEOUT_SECONDS,
                )
        except httpx.HTTPError:
            return True
        if not answer.is_success and answer.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.BAD_REQUEST):
            raise ServiceError(
                f"MLflow answers {answer.status_code} when asked for an alias",
                got=answer.text,
                next="look at its log, below logs in the state folder",
            )
        return answer.is_success and str(answer.json()["model_version"]["version"]) == entry.subject
