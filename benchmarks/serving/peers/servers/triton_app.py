"""NVIDIA's Triton Inference Server, brought up by PyTriton: the Open Inference Protocol with two tensors.

python -m benchmarks.serving.peers.servers.triton_app HTTP_PORT GRPC_PORT METRICS_PORT
"""
# mypy: disable-error-code="import-not-found, misc, untyped-decorator"

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.serving.peers.servers.served_model import ServedModel


def main() -> None:
    model = ServedModel.of_environment()

    @batch
    def infer(numeric: Any, categorical: Any) -> dict[str, Any]:
        names = [[name.decode() for name in row] for row in categorical]
        answers = model.predict(np.asarray(numeric, np.float32), names)
        return {"probability": np.asarray(answers, np.float32)[:, None]}

    http, grpc, metrics = (int(port) for port in sys.argv[1:4])
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
            model_name="model",
            infer_func=infer,
            inputs=[
                Tensor(name="numeric", dtype=np.float32, shape=(len(model.numeric),)),
                Tensor(name="categorical", dtype=bytes, shape=(len(model.categorical),)),
            ],
            outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
            # A lone caller must not wait for a batch to fill.
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    main()
