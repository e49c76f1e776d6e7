"""Each validation's metrics to MLflow while a training run is under way, from Ray Train's controller."""

from __future__ import annotations

import time
from typing import Any

import httpx
from ray.train import Checkpoint, UserCallback

from millrace.faults import fault_point
from millrace.logs import get_logger
from millrace.settings import load_settings

_TIMEOUT_SECONDS = 10.0


class RoundMetrics(UserCallback):
    """Log what rank 0 reports after each validation, by the optimizer step."""

    def __init__(self, mlflow_url: str, run_id: str) -> None:
        self._mlflow_url = mlflow_url
        self._run_id = run_id

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        now, step = int(time.time() * 1000), int(metrics[0]["step"])
        values = [{"key": name, "value": value, "timestamp": now, "step": step} for name, value in metrics[0].items()]
        try:
            # MLflow's REST API, not its client: importing that takes the controller longer than a round of steps.
            with fault_point("mlflow.log_round"):
                answer = httpx.post(
                    f"{self._mlflow_url}/api/2.0/mlflow/runs/log-batch",
                    json={"run_id": self._run_id, "metrics": values},
                    # Read here, from the controller's own environment: this object is pickled into the cluster.
                    headers=load_settings().mlflow_headers,
                    timeout=_TIMEOUT_SECONDS,
                )
            answer.raise_for_status()
        except httpx.HTTPError as error:
            # A registry that is away must not end a training run; the history is logged again when it is over.
            get_logger().warning("metrics of a validation not logged", run=self._run_id, step=step, error=str(error))
