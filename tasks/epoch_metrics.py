"""Per-epoch metrics to MLflow while a training run is under way, from Ray Train's controller."""

from __future__ import annotations

import time
from typing import Any

import requests
from ray.train import Checkpoint, UserCallback

from millrace.logs import get_logger


class EpochMetrics(UserCallback):
    """Log what rank 0 reports at each epoch's end."""

    def __init__(self, mlflow_url: str, run_id: str) -> None:
        self._mlflow_url = mlflow_url
        self._run_id = run_id

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now, epoch = int(time.time() * 1000), int(metrics[0]["epoch"])
        values = [Metric(name, value, now, epoch) for name, value in metrics[0].items()]
        try:
            MlflowClient(tracking_uri=self._mlflow_url).log_batch(self._run_id, metrics=values)
        except (MlflowException, requests.RequestException) as error:
            # A registry that is away must not end a training run; the history is logged again when it is over.
            get_logger().warning("epoch metrics not logged", run=self._run_id, epoch=epoch, error=str(error))
