"""Requests that Schemathesis makes of the service's own OpenAPI document, allowed and forbidden ones of each operation.

Each is answered with a status, a type, headers and a body that the document lists for its operation, none with a
failure of the service, and what the document forbids is refused.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.core import NotSet
from schemathesis.core.failures import FailureGroup

from millrace.openapi import document
from tests.unit.fuzz.asking import Asked
from tests.unit.fuzz.material import examples
from tests.unit.millrace.open_inference.specs import make_spec
from tests.unit.ray_jobs.serve.described import assert_described

#: What JSON Schema cannot say, such as which texts are times and how many bytes are too many, is refused too; and
#: Schemathesis takes `prefixItems` in a response for what an older draft has, so `jsonschema` judges bodies.
_EXCLUDED = [checks.positive_data_acceptance, checks.response_schema_conformance]
_CONFIG = {"checks": {"negative_data_rejection": {"expected-statuses": [401, 403, 404, 405, 413, 415, 422]}}}
_ALIVE_SECONDS = 10.0
_OPERATIONS = [
    f"{method.upper()} {path}"
    for path, item in document(make_spec(), "1")["paths"].items()
    for method in item
    if method in ("get", "post")
]


@pytest.fixture(scope="module")
def operations(asked: Asked) -> dict[str, Any]:
    """Of each operation, the cases that it may be asked."""
    config = schemathesis.Config.from_dict(_CONFIG)
    schema = schemathesis.openapi.from_dict(document(asked.world.pipeline.spec, "1"), config=config)
    return {
        found.ok().label: st.one_of(*(found.ok().as_strategy(generation_mode=mode) for mode in GenerationMode))
        for found in schema.get_all_operations()
    }


@pytest.mark.parametrize("label", _OPERATIONS)
@given(data=st.data())
@examples(5)
def test_answers_are_as_described(asked: Asked, operations: dict[str, Any], label: str, data: st.DataObject) -> None:
    case = data.draw(operations[label])
    assert_as_described(asked, case, asyncio.run(answer(asked, case)))
    asked.assert_unharmed()


@pytest.mark.parametrize(
    ("status", "told"), [(200, {"status": "dead"}), (200, {}), (418, {"status": "alive"}), (500, {})]
)
@given(data=st.data())
@examples(12)
def test_an_answer_that_is_not_described_is_found(
    asked: Asked, operations: dict[str, Any], status: int, told: dict[str, str], data: st.DataObject
) -> None:
    case = data.draw(operations["GET /health"])
    request = httpx.Request("GET", "http://test/v1/tiny/health")
    wrong = httpx.Response(status, json=told, headers={"x-request-id": "r.1"}, request=request)
    wrong.elapsed = timedelta(0)
    with pytest.raises((FailureGroup, jsonschema.ValidationError)):
        assert_as_described(asked, case, wrong)


def assert_as_described(asked: Asked, case: Any, found: httpx.Response) -> None:
    case.validate_response(found, excluded_checks=_EXCLUDED)
    assert_described(document(asked.world.pipeline.spec, "1"), case.method, case.path, found)


async def answer(asked: Asked, case: Any) -> httpx.Response:
    transport = httpx.ASGITransport(asked.service, root_path="/v1/tiny")
    async with httpx.AsyncClient(transport=transport, base_url="http://test/v1/tiny") as client:
        body = b"" if isinstance(case.body, NotSet) else case.body
        asking = client.request(
            case.method,
            case.formatted_path,
            headers={**case.headers, **({"content-type": case.media_type} if case.media_type else {})},
            content=body if isinstance(body, bytes) else json.dumps(body).encode(),
        )
        return await asyncio.wait_for(asking, _ALIVE_SECONDS)
