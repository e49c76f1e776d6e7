"""Doubles of the systems outside: Prefect's API, MLflow's client, Ray and Serve. Their state lies in one file.

Each is as narrow as its adapter's use of it, and keeps the promises that the adapter relies on (an idempotency key is
unique, a model version's number grows, a replica refuses an older token) and no other. They are used by processes that
are killed at any moment, so each change is one atomic replacement of the file.
"""

from __future__ import annotations

import fcntl
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlflow.exceptions import MlflowException

from millrace.errors import ConflictError, FencedError, UnknownNameError
from millrace.faults import fault_point
from millrace.settings import Settings
from ray_jobs.serve.deploy import Deployed
from ray_jobs.serve.plan import Served, plan_of

_NAMESPACE = uuid.UUID("6d696c6c-7261-6365-0000-000000000000")
EMPTY: dict[str, Any] = {"runs": {}, "events": [], "mlflow": {"runs": {}, "models": {}}, "serve": {}}


class Outside:
    """The state of everything outside, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "outside.json"

    def read(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_bytes())) if self.path.exists() else json.loads(json.dumps(EMPTY))

    @contextmanager
    def edit(self) -> Iterator[dict[str, Any]]:
        """Change the state; whoever is killed inside has changed nothing."""
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            yield state
            partial = self.path.with_suffix(f".{uuid.uuid4().hex}")
            partial.write_text(json.dumps(state, default=str))
            partial.replace(self.path)


class PrefectApi:
    """What `tasks.prefect_api._ask` asks Prefect for."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def ask(self, _: Settings, point: str, method: str, path: str, body: Any = None, missing: str | None = None) -> Any:
        """In the place of `_ask`, at the same fault points."""
        with fault_point(f"prefect.{point}"):
            return getattr(self, f"_{point}")(path, body, missing)

    def _find_deployment(self, path: str, _body: Any, _missing: Any) -> Any:
        return {"id": path.split("/name/")[1].replace("/", ":")}

    def _create_run(self, path: str, body: Any, _missing: Any) -> Any:
        deployment = path.split("/")[2].split(":")[1]
        key = body.get("idempotency_key") or f"{deployment} {uuid.uuid4()}"
        # The name follows from the key, so that two worlds give the same runs the same names.
        run = str(uuid.uuid5(_NAMESPACE, key))
        with self._outside.edit() as state:
            state["runs"].setdefault(
                run, {"flow": deployment, "parameters": body["parameters"], "state": "SCHEDULED", "starts": 0}
            )
        return {"id": run}

    def _send_event(self, _path: str, body: Any, _missing: Any) -> Any:
        with self._outside.edit() as state:
            state["events"] += [event["payload"]["incident"] for event in body]

    def _set_state(self, path: str, body: Any, missing: Any) -> Any:
        with self._outside.edit() as state:
            _known(state, path, missing)["state"] = body["state"]["type"]

    def _read_run(self, path: str, _body: Any, missing: Any) -> Any:
        found = _known(self._outside.read(), path, missing)
        return {
            "name": "run",
            "state": {"type": found["state"], "message": ""},
            "total_run_time": 0.0,
            "deployment_id": found["flow"],
        }

    def _list_states(self, path: str, _body: Any, _missing: Any) -> Any:
        found = self._outside.read()["runs"][path.split("=")[1]]
        return [{"type": state} for state in [*found.get("before", []), found["state"]]]

    def _list_runs(self, _path: str, body: Any, _missing: Any) -> Any:
        wanted = body["flow_runs"]["state"]["type"]["any_"]
        runs = self._outside.read()["runs"]
        return [{"id": run, "state_type": found["state"]} for run, found in runs.items() if found["state"] in wanted]


def _known(state: dict[str, Any], path: str, missing: Any) -> dict[str, Any]:
    run = path.split("/")[2]
    if run not in state["runs"]:
        raise UnknownNameError(f"Prefect knows no '{missing}'")
    found: dict[str, Any] = state["runs"][run]
    return found


class MlflowClient:
    """What `tasks.registry.Registry` calls of MLflow's client."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name)

    def search_runs(self, _experiments: Any, filter_string: str, max_results: int) -> Any:
        key = filter_string.split("'")[1]
        found = self._outside.read()["mlflow"]["runs"].get(key)
        return [] if found is None else [_mlflow_run(key, found)]

    def create_run(self, _experiment: str, tags: dict[str, str], run_name: str) -> Any:
        (key,) = tags.values()
        with self._outside.edit() as state:
            assert key not in state["mlflow"]["runs"], "a run is made once"
            state["mlflow"]["runs"][key] = {"params": {}, "metrics": {}, "ended": False}
        return _mlflow_run(key, {"params": {}})

    def log_batch(self, run: str, params: Any = (), metrics: Any = ()) -> None:
        with self._outside.edit() as state:
            found = state["mlflow"]["runs"][run]
            for param in params:
                if found["params"].setdefault(param.key, param.value) != param.value:
                    raise ConflictError(f"MLflow keeps the first value of {param.key}")
            found["metrics"] |= {f"{metric.key}@{metric.step}": metric.value for metric in metrics}

    def set_terminated(self, run: str) -> None:
        with self._outside.edit() as state:
            state["mlflow"]["runs"][run]["ended"] = True

    def log_artifact(self, run: str, path: str, folder: str) -> None:
        """Nothing is kept: reports are not compared."""

    def log_artifacts(self, run: str, folder: str, name: str) -> None:
        """Nothing is kept: the package in the object store is."""

    def get_run(self, run: str) -> Any:
        return _mlflow_run(run, self._outside.read()["mlflow"]["runs"].get(run, {"params": {}}))

    def search_registered_models(self, text: str) -> Any:
        return [name for name in self._outside.read()["mlflow"]["models"] if name in text]

    def create_registered_model(self, name: str, description: str) -> None:
        with self._outside.edit() as state:
            if name in state["mlflow"]["models"]:
                raise MlflowException(f"MLflow has a model '{name}'")
            state["mlflow"]["models"][name] = {"versions": [], "aliases": {}}

    def get_registered_model(self, name: str) -> Any:
        return SimpleNamespace(aliases=self._outside.read()["mlflow"]["models"][name]["aliases"])

    def search_model_versions(self, text: str, max_results: int) -> Any:
        name = text.split("'")[1]
        versions = self._outside.read()["mlflow"]["models"].get(name, {"versions": []})["versions"]
        return [_mlflow_version(name, version) for version in versions]

    def create_model_version(self, name: str, source: str, run_id: str, description: str, tags: Any) -> Any:
        with self._outside.edit() as state:
            versions = state["mlflow"]["models"][name]["versions"]
            versions.append({"version": str(len(versions) + 1), "run_id": run_id, "tags": dict(tags)})
            return _mlflow_version(name, versions[-1])

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        with self._outside.edit() as state:
            state["mlflow"]["models"][name]["aliases"][alias] = version


def _mlflow_run(key: str, found: dict[str, Any]) -> Any:
    info = SimpleNamespace(run_id=key, experiment_id="1")
    return SimpleNamespace(info=info, data=SimpleNamespace(params=found["params"]))


def _mlflow_version(name: str, found: dict[str, Any]) -> Any:
    return SimpleNamespace(name=name, creation_timestamp=0, **found)


class Serve:
    """What `ray_jobs.serve.deploy.deploy` does: replicas that refuse an older token, and a durable configuration."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def deploy(self, settings: Settings, name: str, served: Served, prove: Any = lambda: None) -> Deployed:
        target = plan_of(served).primary
        for point in ("serve.broadcast", "serve.submit"):
            prove()
            with fault_point(point), self._outside.edit() as state:
                known = state["serve"].setdefault(name, {"token": 0, "moves": []})
                if target.token < known["token"]:
                    raise FencedError("a later run decides", got=target.token, allowed=f"{known['token']} or later")
                known["token"] = target.token
                if point == "serve.submit" and known.get("version") != target.version:
                    known["moves"].append(target.version)
                    known |= {"version": target.version, "digest": target.package_digest}
        return Deployed(name, target.version, f"{settings.serve_url}/v1/{name}", 0.0, 1)
