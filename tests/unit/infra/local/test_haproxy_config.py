"""What Ray Serve writes for HAProxy, corrected."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from infra.local.haproxy_config import Ingress, Queue, corrected, main, read_queues
from millrace.ingress_queue import PATIENCE_SECONDS, IngressQueue, queues_folder
from millrace.settings import Settings
from millrace.spec import ServingSpec

CONFIG = """\
global
    maxconn 4096
defaults
    mode http
    errorfile 502 /tmp/500.http
    errorfile 503 /tmp/500.http
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
    acl is_http-fares path_beg /v1/fares/
    acl is_http-fares path /v1/fares
    acl is_http-delays path /v1/delays
    use_backend http-fares if is_http-fares
    use_backend http-delays if is_http-delays
    default_backend default_backend
backend default_backend
backend http-fares
    http-reuse always
    server A 127.0.0.1:30000 check observe layer4
    server B 127.0.0.1:30001 check backup
backend http-delays
    server C 127.0.0.1:30002 check
listen stats
  bind *:8404
"""


def lines(config: str) -> list[str]:
    return [line.strip() for line in config.splitlines()]


def test_only_an_application_that_has_a_queue_gets_one() -> None:
    found = lines(corrected(CONFIG, None, {"fares": Queue(32, 0.05), "gone": Queue(1, 1)}))
    assert "server A 127.0.0.1:30000 check observe layer4 maxconn 32" in found
    assert "server B 127.0.0.1:30001 check backup" in found, "what stands in has its own bound"
    assert "server C 127.0.0.1:30002 check" in found
    assert [line for line in found if line.startswith("timeout queue")] == ["timeout queue 50ms"]
    assert found.index("backend http-fares") + 1 == found.index("timeout queue 50ms")


def test_turns_are_told_once_before_any_backend_is_chosen() -> None:
    found = lines(corrected(CONFIG, None, {}))
    (turn,) = [at for at, line in enumerate(found) if line.startswith("http-request set-priority-class")]
    assert found.index("bind 127.0.0.1:8000") < turn < found.index("use_backend http-fares if is_http-fares")
    assert found.count("backend customers") == 1


def test_whom_a_replica_refuses_is_held_where_the_application_has_a_queue() -> None:
    found = lines(corrected(CONFIG, None, {"fares": Queue(32, 0.05), "gone": Queue(1, 1)}))
    held = [line for line in found if line.startswith("http-request return status 429")]
    assert len(held) == 1, "an application that is not there has no rule, which HAProxy would refuse"
    assert held[0].endswith(" if is_http-fares { date(0,ms),mod(1000000000),sub(txn.refused) 0:24 }")
    document = json.loads(held[0].partition(" string '")[2].partition("' if ")[0])
    assert document["status"] == 429
    assert {"type", "title", "detail", "next", "error"} < set(document)
    assert found.index(held[0]) < found.index("use_backend http-fares if is_http-fares")
    assert found.count("backend refused-fares") == 1


def test_with_no_application_there_is_nobody_to_take_turns() -> None:
    config = "\n".join(line for line in CONFIG.splitlines() if "use_backend" not in line)
    assert "set-priority-class" not in corrected(config, None, {})


def test_failures_of_its_own_are_problem_documents() -> None:
    found = [line for line in lines(corrected(CONFIG, None, {})) if line.startswith(("http-error", "errorfile"))]
    assert [line.split()[:3] for line in found] == [
        ["http-error", "status", status] for status in ("502", "503", "408")
    ]
    for line in found:
        document = json.loads(line.partition(" string ")[2].strip("'"))
        assert {"type", "title", "status", "detail", "next", "error"} == set(document)
        assert ("hdr retry-after 1 " in line) == (document["status"] >= 500)


def test_listeners_are_on_loopback_or_where_the_settings_say() -> None:
    found = lines(corrected(CONFIG, Ingress("127.0.0.1:8000", "127.0.0.1:8000,10.1.2.3:8000"), {}))
    assert [line for line in found if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind 127.0.0.1:8000,10.1.2.3:8000",
        "bind 127.0.0.1:8404",
    ]


def test_what_a_deploy_leaves_is_what_the_ingress_reads(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    queue = IngressQueue(16, 0.25)
    queue.write(settings, "fares")
    assert {name: asdict(found) for name, found in read_queues(queues_folder(settings)).items()} == {
        "fares": asdict(queue)
    }
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    main(json.dumps({"ingress": None, "queues": str(queues_folder(settings))}), str(config))
    assert "maxconn 16\n" in config.read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"concurrent": 1}', '{"concurrent": "x", "seconds": 1}'])
def test_one_damaged_queue_is_told_and_costs_the_others_nothing(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "delays.json").write_text(content)
    (tmp_path / "fares.json").write_text('{"concurrent": 3, "seconds": 1.5}')
    assert read_queues(tmp_path) == {"fares": Queue(3, 1.5)}
    assert "delays.json" in capsys.readouterr().err


def test_before_the_first_deploy_there_are_no_queues(tmp_path: Path) -> None:
    assert read_queues(tmp_path / "ingress") == {}


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        ({}, IngressQueue(64, PATIENCE_SECONDS)),
        ({"max_ongoing_requests": 5}, IngressQueue(5, PATIENCE_SECONDS)),
        ({"latency_target_ms": 100}, IngressQueue(32, 0.05)),
        ({"latency_target_ms": 100, "max_ongoing_requests": 8}, IngressQueue(8, 0.05)),
    ],
)
def test_the_queue_follows_from_the_spec(serving: dict[str, float], expected: IngressQueue) -> None:
    assert IngressQueue.of(ServingSpec.model_validate(serving)) == expected
