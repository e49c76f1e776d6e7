"""Each validation's metrics to MLflow while a training is under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import httpx

from millrace.faults import fault_point
from millrace.logs import get_logger
from millrace.settings import Settings

_TIMEOUT_SECONDS = 10.0


def round_metrics(settings: Settings, run_id: str) -> Callable[[Mapping[str, float]], None]:
    """A function that logs what a validation measured to the run `run_id`, by the optimizer step."""

    def log(metrics: Mapping[str, float]) -> None:
        now, step = int(time.time() * 1000), int(metrics["step"])
        values = [{"key": name, "value": value, "timestamp": now, "step": step} for name, value in metrics.items()]
        try:
            with fault_point("mlflow.log_round"):
                answer = httpx.post(
                    f"{settings.mlflow_url}/api/2.0/mlflow/runs/log-batch",
                    json={"run_id": run_id, "metrics": values},
                    headers=settings.mlflow_headers,
                    timeout=_TIMEOUT_SECONDS,
                )
            answer.raise_for_status()
        except httpx.HTTPError as error:
            # A registry that is away must not end a training run; the history is logged again when it is over.
            get_logger().warning("metrics of a validation not logged", run=run_id, step=step, error=str(error))

    return log
