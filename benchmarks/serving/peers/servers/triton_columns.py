"""Triton with the signature that Millrace has: an input tensor a feature. For the comparison of protocols.

python -m benchmarks.serving.peers.servers.triton_columns MODEL HTTP_PORT GRPC_PORT METRICS_PORT
"""
# mypy: disable-error-code="import-not-found, misc, untyped-decorator"

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.serving.peers.servers.served_model import ServedModel


def main() -> None:
    model = ServedModel.of_environment()

    @batch
    def infer(**columns: Any) -> dict[str, Any]:
        numeric = np.concatenate([columns[name] for name in model.numeric], 1).astype(np.float32)
        texts = np.concatenate([columns[name] for name in model.categorical], 1)
        answers = model.predict(numeric, [[name.decode() for name in row] for row in texts])
        return {"probability": np.asarray(answers, np.float32)[:, None]}

    name, (http, grpc, metrics) = sys.argv[1], (int(port) for port in sys.argv[2:5])
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=http,
        grpc_address="127.0.0.1",
        grpc_port=grpc,
        metrics_address="127.0.0.1",
        metrics_port=metrics,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=[
                *(Tensor(name=column, dtype=np.float64, shape=(1,)) for column in model.numeric),
                *(Tensor(name=column, dtype=bytes, shape=(1,)) for column in model.categorical),
            ],
            outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=64),
            strict=True,
        )
        triton.serve()


if __name__ == "__main__":
    main()
