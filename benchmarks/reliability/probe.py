"""Asks ports what they give to a client without credentials. A process of its own, so that it can run in a namespace.

Only reads are asked for, each bounded in time. Prints JSON: for each port whether it was reached, and what it served.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_SECONDS = 3.0
_WRONG_TOKEN = "0" * 64

#: Reads of Prefect, MLflow, Ray's dashboard and agents, Ray Serve and HAProxy.
PATHS = (
    "/",
    "/api/version",
    "/api/jobs/",
    "/api/serve/applications/",
    "/api/cluster_status",
    "/nodes?view=summary",
    "/logs",
    "/api/admin/settings",
    "/api/2.0/mlflow/experiments/search?max_results=1",
    "/-/routes",
    "/metrics",
    "/stats",
)
#: Reads of each service that Ray's processes offer over gRPC: GCS, raylet, workers, agent, Serve's replicas.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.autoscaler.AutoscalerStateService/GetClusterStatus",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/GetSystemConfig",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.LogService/ListLogs",
    "/ray.serve.ASGIService/HandleRequest",
)
_HTTP_STATUS = re.compile(r"http2 header with status: (\d+)")
#: Answers that give nothing away: refused, not offered here, or no gRPC at all.
_NOTHING = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")


@dataclass(frozen=True)
class Probed:
    """What a port gave to who has no credentials: `refused` counts the calls that it answered with a refusal."""

    port: int
    reached: bool
    served: tuple[str, ...] = ()
    refused: int = 0


def probe(host: str, port: int, *, http: bool = True) -> Probed:
    """Ask one port, over gRPC without a token and with a wrong one, and over HTTP without credentials."""
    try:
        with socket.create_connection((host, port), timeout=_SECONDS):
            pass
    except OSError:
        return Probed(port, reached=False)
    served: list[str] = []
    refused = 0
    for what, answer in [*_grpc(host, port), *(_http(host, port) if http else [])]:
        if answer in ("UNAUTHENTICATED", "PERMISSION_DENIED", "401", "403"):
            refused += 1
        elif answer not in _NOTHING and (not answer.isdigit() or 200 <= int(answer) < 400):
            served.append(f"{what}: {answer}")
    return Probed(port, reached=True, served=tuple(served), refused=refused)


def _grpc(host: str, port: int) -> list[tuple[str, str]]:
    import grpc

    found = []
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for token in (None, _WRONG_TOKEN):
            metadata = None if token is None else [("authorization", f"Bearer {token}")]
            for method in METHODS:
                call = channel.unary_unary(method)
                try:
                    call(b"", timeout=_SECONDS, metadata=metadata)
                    answer = "OK"
                except grpc.RpcError as error:
                    # A server that speaks HTTP/2 but no gRPC answers with an HTTP status.
                    status = _HTTP_STATUS.search(error.details() or "")
                    answer = status[1] if status else error.code().name
                found.append((method, answer))
                if answer in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):  # it does not speak gRPC
                    return found
    return found


def _http(host: str, port: int) -> list[tuple[str, str]]:
    import httpx

    found = []
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=_SECONDS, trust_env=False) as client:
        for path in PATHS:
            try:
                found.append((path, str(client.get(path).status_code)))
            except httpx.HTTPError:  # it does not speak HTTP/1.1
                return found
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("ports", nargs="+", type=int)
    options = parser.parse_args(arguments)
    sys.stdout.write(json.dumps([asdict(probe(options.host, port)) for port in options.ports]))


if __name__ == "__main__":
    main()
