"""MLflow: a `pyfunc` model with a signature, which `mlflow models serve` enforces on each request.

    python -m benchmarks.serving.peers.servers.mlflow_model FOLDER

saves it into FOLDER.
"""

import sys
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from benchmarks.serving.peers.servers.served_model import ServedModel


class DelayModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined, unused-ignore]
    """A table of the contract's columns in, one probability a row out."""

    def load_context(self, context: Any) -> None:
        self._model = ServedModel.of_environment()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> list[float]:
        numeric = model_input[self._model.numeric].to_numpy("float32")
        return self._model.predict(numeric, model_input[self._model.categorical].to_numpy().tolist())


def main() -> None:
    model = ServedModel.of_environment()
    columns: list[Any] = [ColSpec("double", name) for name in model.numeric]
    columns += [ColSpec("string", name) for name in model.categorical]
    signature = ModelSignature(Schema(columns), Schema([ColSpec("double")]))
    # By reference, not by value: the class is in this module, which the server imports.
    mlflow.pyfunc.save_model(sys.argv[1], python_model=DelayModel(), signature=signature, pip_requirements=["mlflow"])


if __name__ == "__main__":
    main()
