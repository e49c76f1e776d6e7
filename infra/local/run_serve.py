"""Child process: starts Ray Serve, detached, on a Ray head that may still be starting; or shuts it down."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from infra.local.health import listens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["start", "shutdown"])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--patience-s", type=float, required=True)
    options = parser.parse_args()

    import ray
    from ray import serve

    host, _, port = os.environ["RAY_ADDRESS"].rpartition(":")
    deadline = time.monotonic() + options.patience_s
    while not listens(host, int(port)):
        if time.monotonic() > deadline:
            raise SystemExit(f"Ray at {host}:{port} did not answer within {options.patience_s:.0f} s")
        time.sleep(0.05)
    ray.init(namespace="serve", logging_level=logging.WARNING, log_to_driver=False)
    if options.action == "start":
        serve.start(proxy_location="HeadOnly", http_options={"host": options.host, "port": options.port})
    else:
        serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Tearing the interpreter down takes another second, in which nothing of use happens.
    os._exit(0)


if __name__ == "__main__":
    main()
