"""One to three replicas and back on a real Ray cluster behind HAProxy, by the policy and what the replicas count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests.integration.test_serving import MODEL, SPEC, Cluster, Load
from tests.waiting import until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]

# A row takes 50 ms of its replica, however many are executed together: eight callers use up two on any machine.
SLOW_MODEL = MODEL.replace("import torch\n", "import time\n\nimport torch\n", 1).replace(
    "        return self.layer", "        time.sleep(0.05 * len(batch['numeric']))\n        return self.layer"
)
SERVING = {
    "log_rotate_seconds": 1.0,
    "cpus_per_replica": 0.2,
    "latency_target_ms": 250.0,
    "autoscaling": {"max_replicas": 3, "cool_down_seconds": 10.0},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("autoscaling"))
    folder = cluster.root / "pipelines" / "tiny"
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(SPEC | {"serving": SERVING}))
    (folder / "model.py").write_text(SLOW_MODEL)
    try:
        yield cluster
    finally:
        assert cluster.close() == []


def test_replicas_follow_the_load_and_no_request_fails(cluster: Cluster) -> None:
    def running() -> int:
        return len(cluster.ask("replicas", "tiny"))

    deployed = cluster.deploy("1")
    assert (deployed["version"], deployed["replicas"]) == ("1", 1)
    with Load(cluster.url) as load:
        until(lambda: running() == 3, "the third replica")
        load.wait(200)
        # The number is the policy's matter: a deploy leaves it as it is.
        assert cluster.deploy("1")["replicas"] == 3
        assert cluster.deploy("2")["replicas"] == 3
        load.wait(200)
    until(lambda: running() == 1, "one replica again")
    assert load.failures == []
