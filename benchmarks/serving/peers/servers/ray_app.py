"""Bare Ray Serve: the FastAPI application as a deployment's ingress, one replica, on a Ray of its own.

    python -m benchmarks.serving.peers.servers.ray_app PORT FOLDER

Which proxy stands before it, and which mode Serve is in, the environment says. `FOLDER` holds Ray's session.
"""

import logging
import os
import signal
import sys
import threading
from typing import Any


def main() -> None:
    import ray
    from ray import serve

    from benchmarks.serving.peers.servers.fastapi_app import build_app

    port, folder = int(sys.argv[1]), sys.argv[2]
    ended = threading.Event()
    ray.init(
        num_cpus=max(4, os.cpu_count() or 1),
        include_dashboard=False,
        object_store_memory=200_000_000,
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})

    def ingress() -> Any:
        return build_app()

    class Bare:
        """Has nothing of its own: the application answers."""

    deployment: Any = serve.deployment(serve.ingress(ingress)(Bare))
    # Millrace's values: the defaults would hold back all but five requests.
    bound = deployment.options(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5}).bind()
    serve.run(bound, name="bare", route_prefix="/")
    ended.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
