"""The environment every process of a stack needs: ours, and whoever talks to it.

Ray, Prefect and MLflow read it while they are imported, so it is applied before. Cheap to import.
"""

from __future__ import annotations

import os

from millrace.settings import Settings

_TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Where usage statistics are off, Ray reports just that; nobody listens here.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
}

# Constants in Ray read these when it is imported, in the driver too; all must agree.
SERVE_MODE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # The floor under every replica stop; 30 s by default, for load balancers that a laptop does not have.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    # A request that a killed replica has not begun to answer goes to another one. By default only what never reached a
    # replica does; a prediction may be asked twice, as its request id names it. It must fit into the buffer.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    "RAY_SERVE_HAPROXY_RETRIES": "5",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
}


# Ray Train's controller looks at its workers this often, and an epoch's report waits for it; 2 s by default, longer
# than a laptop's whole epoch.
_TRAIN_MODE = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


def environment(settings: Settings) -> dict[str, str]:
    """Variables for child processes, flow runs and the `millrace` command itself.

    Holds no token, only its path; but the settings' own secrets, which come as variables.
    """
    values = {
        **settings.environment(),
        **_TELEMETRY_OFF,
        **SERVE_MODE,
        **_TRAIN_MODE,
        "PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_HOME": str(settings.state / "prefect"),
        # The polls that stand between an event and the first line of the flow that it starts; 10 s by default.
        "PREFECT_WORKER_QUERY_SECONDS": "0.25",
        "PREFECT_WORKER_PREFETCH_SECONDS": "5",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "RAY_ADDRESS": settings.ray,
        **_without_proxy(),
    }
    if settings.prefect_auth is not None:
        values["PREFECT_API_AUTH_STRING"] = settings.prefect_auth.get_secret_value()
    if settings.mlflow_auth is not None:
        user, _, password = settings.mlflow_auth.get_secret_value().partition(":")
        values |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    if settings.ray_address is None:
        values |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(settings.state / "ray" / "token"),
            # Despite its name it works on Linux: the node's address becomes 127.0.0.1, and then GCS, raylet, agents
            # and workers listen on loopback only. A driver without it looks for the head at the machine's address.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    return values


def _without_proxy() -> dict[str, str]:
    """A company's HTTP proxy must not be asked for our loopback addresses; gRPC and httpx would."""
    known = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    hosts = [host.strip() for host in known.split(",") if host.strip()]
    hosts += [host for host in ("127.0.0.1", "localhost") if host not in hosts]
    return {name: ",".join(hosts) for name in ("NO_PROXY", "no_proxy")}
