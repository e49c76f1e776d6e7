"""The Open Inference Protocol, version 2, over REST ("V2"): as KServe, Triton and MLServer speak it.

One input tensor a feature, [rows] or [rows, 1]; the rows that come this way are checked, answered and logged as those
of `millrace.requests` are. Written from two documents:

- https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
- https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

What they leave open is chosen in `millrace.open_inference.requests`. Everything here is pure: bytes in, values out.
"""

from millrace.open_inference.answers import AnswerEncoder, InferAnswer
from millrace.open_inference.documents import (
    model_metadata,
    model_ready,
    server_live,
    server_metadata,
    server_ready,
    with_error,
)
from millrace.open_inference.paths import Route, find_route, require_served
from millrace.open_inference.requests import HEADER_LENGTH, InferContract, InferRequest, RequestedOutput

__all__ = [
    "HEADER_LENGTH",
    "AnswerEncoder",
    "InferAnswer",
    "InferContract",
    "InferRequest",
    "RequestedOutput",
    "Route",
    "find_route",
    "model_metadata",
    "model_ready",
    "require_served",
    "server_live",
    "server_metadata",
    "server_ready",
    "with_error",
]
