"""FastAPI with uvicorn, one worker: what a team writes that wants a model behind HTTP. The unit of this benchmark.

python -m benchmarks.serving.peers.servers.fastapi_app PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.serving.peers.servers.contract import Answers, request_model, row_model
from benchmarks.serving.peers.servers.served_model import ServedModel


def build_app() -> FastAPI:
    """The application, with the model of the environment."""
    model = ServedModel.of_environment()
    app, asked = FastAPI(), request_model(row_model(model.shape))

    # On the event loop, as Millrace does: handing so small a model to a thread costs more than calling it.
    @app.post("/predict")
    async def predict(request: asked) -> Answers:  # type: ignore[valid-type]
        rows: Any = request.rows  # type: ignore[attr-defined]
        return Answers(predictions=model.predict_rows([vars(row) for row in rows]))

    return app


if __name__ == "__main__":
    uvicorn.run(
        build_app(), port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
