"""Each prediction request leaves a trace, however it ended; its caller's trace goes on in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pandas as pd
import pytest

from millrace.openapi import document
from millrace.traces.records import STAGES
from millrace.traces.table import read_traces
from ray_jobs.serve.service import PredictionService, _Asked
from ray_jobs.serve.tracing import Traces, calling
from tests.unit.millrace.traces.collector import collecting
from tests.unit.ray_jobs.serve.asking import Ask, asking
from tests.unit.ray_jobs.serve.world import World

ROW = {"delay": 1.5, "carrier": "UA"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture
def service(world: World) -> Iterator[PredictionService]:
    traces = Traces(world.log_folder, "tiny")
    service = PredictionService(world.pipeline, world.store, world.log_folder, traces=traces)
    asyncio.run(service.load(world.publish("1")))
    yield service
    service.close()


def traces_of(service: PredictionService, world: World) -> pd.DataFrame:
    service.close()
    return read_traces(world.log_folder)


def test_a_prediction_leaves_a_trace_that_its_answer_names(service: PredictionService, ask: Ask, world: World) -> None:
    answer = ask("POST", "/predict", json={"rows": [ROW, ROW]}, headers={"x-request-id": "me.1"})
    assert answer.status_code == 200
    (trace,) = traces_of(service, world).to_dict("records")
    assert answer.headers["traceparent"] == f"00-{trace['trace_id']}-{trace['span_id']}-01"
    assert trace["parent_span_id"] is None
    about = {"request_id": "me.1", "pipeline": "tiny", "version": "1", "customer": "", "status": 200, "rows": 2}
    assert about.items() <= trace.items()
    assert (trace["batch_rows"], trace["cached_rows"]) == (2, 0)
    assert sum(trace[f"{stage}_us"] for stage in STAGES) == trace["duration_us"] > 0
    assert trace["execute_us"] > 0


def test_the_header_is_as_the_document_says_of_answers_and_refusals(service: PredictionService, ask: Ask) -> None:
    components = document(service.pipeline.spec, "1")["components"]
    schema = components["headers"]["TraceParent"]["schema"]
    for body, status in (({"rows": [ROW]}, 200), ({"rows": []}, 422)):
        answer = ask("POST", "/predict", json=body, headers={"traceparent": PARENT})
        assert answer.status_code == status
        jsonschema.Draft202012Validator(schema).validate(answer.headers["traceparent"])
    assert "traceparent" not in ask("GET", "/health").headers


def test_traces_are_kept_as_long_as_the_version_that_answers_says(service: PredictionService, world: World) -> None:
    assert service._traces is not None
    assert service._traces.recorder.keep_seconds == 7 * 86_400
    spec = world.pipeline.spec
    longer = spec.model_copy(update={"serving": spec.serving.model_copy(update={"trace_days": 30.0})})
    asyncio.run(service.load(world.publish("2", spec=longer)))
    assert service._traces.recorder.keep_seconds == 30 * 86_400


def test_a_trace_goes_on(service: PredictionService, ask: Ask, world: World) -> None:
    answers = [
        ask("POST", path, json=body, headers={"traceparent": PARENT})
        for path, body in (
            ("/predict", {"rows": [ROW]}),
            ("/predict", {"rows": [{"delay": "late"}]}),
            (
                "/v2/models/tiny/infer",
                {
                    "inputs": [
                        {"name": "delay", "shape": [1], "datatype": "FP64", "data": [1.5]},
                        {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]},
                    ]
                },
            ),
        )
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 200]
    found = traces_of(service, world)
    assert found["status"].tolist() == [200, 422, 200]
    assert set(found["trace_id"]) == {PARENT[3:35]}
    assert set(found["parent_span_id"]) == {PARENT[36:52]}
    assert [answer.headers["traceparent"][36:52] for answer in answers] == found["span_id"].tolist()
    assert all(answer.headers["traceparent"].startswith(PARENT[:36]) for answer in answers)


@pytest.mark.parametrize("sent", [["nonsense"], [PARENT, PARENT], ["00-" + "0" * 32 + PARENT[35:]]])
def test_a_broken_parent_is_ignored(sent: list[str], service: PredictionService, ask: Ask, world: World) -> None:
    answer = ask("POST", "/predict", json={"rows": [ROW]}, headers=[("traceparent", value) for value in sent])
    assert answer.status_code == 200
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", answer.headers["traceparent"])
    assert traces_of(service, world)["parent_span_id"].tolist() == [None]


def test_what_is_refused_or_fails_is_traced_up_to_there(
    service: PredictionService, ask: Ask, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask("POST", "/predict", content=b"{").status_code == 422
    serving = service._serving
    assert serving is not None

    def broken(batch: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(serving.version.batcher, "execute", broken)
    assert ask("POST", "/predict", json={"rows": [ROW]}).status_code == 500
    refused, failed = traces_of(service, world).to_dict("records")
    assert (refused["status"], refused["version"], refused["preprocess_us"]) == (422, "1", refused["duration_us"])
    assert (failed["status"], failed["rows"], failed["batch_rows"]) == (500, 1, 0)
    assert failed["postprocess_us"] > 0


def test_only_requests_for_predictions_are_traced(service: PredictionService, ask: Ask, world: World) -> None:
    for method, path in (("GET", "/health"), ("GET", "/ready"), ("GET", "/"), ("GET", "/nowhere")):
        assert "traceparent" not in ask(method, path).headers
    assert ask("POST", "/outcomes", json={"outcomes": [{"request_id": "a", "label": 1}]}).status_code == 202
    assert traces_of(service, world).empty


def test_without_traces_nothing_is_kept(world: World) -> None:
    service = PredictionService(world.pipeline, world.store, world.log_folder)
    asyncio.run(service.load(world.publish("1")))
    answer = asking(service)("POST", "/predict", json={"rows": [ROW]}, headers={"traceparent": PARENT})
    assert "traceparent" not in answer.headers
    assert traces_of(service, world).empty


def test_a_batch_is_told_from_its_requests(service: PredictionService, world: World) -> None:
    async def together() -> None:
        http = httpx.ASGITransport(service, root_path="/v1/tiny")
        async with httpx.AsyncClient(transport=http, base_url="http://test/v1/tiny") as client:
            await asyncio.gather(*[client.post("/predict", json={"rows": [ROW]}) for _ in range(8)])

    asyncio.run(together())
    found = traces_of(service, world)
    assert found["rows"].sum() == 8
    assert found["batch_rows"].max() > 1
    # Who is answered last has waited for the others of its batch.
    assert found["resume_us"].max() > 0


def test_a_call_to_another_service_is_in_the_trace(service: PredictionService, world: World) -> None:
    traces = service._traces
    assert traces is not None
    asked = _Asked(
        0.0, "r-1", 0.5, parent=PARENT.encode(), headers=[(b"traceparent", PARENT.encode()), (b"tracestate", b"a=1")]
    )
    with calling(asked, "feature store", table="flights") as span:
        sent = span.headers()
    with pytest.raises(KeyError), calling(asked, "geocoder"):
        raise KeyError
    traces.ended(asked, 200, 1e9)
    (trace,) = traces_of(service, world).to_dict("records")
    store, geocoder = trace["calls"]
    assert sent == {"traceparent": f"{PARENT[:35]}-{store['span_id']}-01", "tracestate": "a=1"}
    assert (store["name"], store["attributes"].tolist()) == ("feature store", [{"name": "table", "value": "flights"}])
    assert geocoder["attributes"].tolist() == [{"name": "error.type", "value": "KeyError"}]
    assert trace["parent_span_id"] == PARENT[36:52]


def test_a_collector_gets_what_the_table_holds(world: World) -> None:
    with collecting() as collector:
        traces = Traces(world.log_folder, "tiny", collector.url)
        service = PredictionService(world.pipeline, world.store, world.log_folder, traces=traces)
        asyncio.run(service.load(world.publish("1")))
        answer = asking(service)("POST", "/predict", json={"rows": [ROW]})
        found = traces_of(service, world)
        root = collector.spans[0]
        resource = {item.key: item.value for item in collector.requests[0].resource_spans[0].resource.attributes}
    assert f"00-{root.trace_id.hex()}-{root.span_id.hex()}-01" == answer.headers["traceparent"]
    assert resource["service.name"].string_value == "tiny"
    assert root.end_time_unix_nano - root.start_time_unix_nano == found["duration_us"][0] * 1000
    assert [span.name for span in collector.spans[1:]] == list(STAGES)
