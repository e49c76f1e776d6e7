"""An answer beside the OpenAPI document that describes it."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema


def assert_described(described: dict[str, Any], method: str, path: str, answer: httpx.Response) -> None:
    """The answer's status, type and body are among those that the document lists for its operation."""
    response = described["paths"][path][method.lower()]["responses"][str(answer.status_code)]
    if "$ref" in response:
        response = described["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = response["content"][answer.headers["content-type"]]
    # Binary data has none.
    if "schema" in content:
        jsonschema.Draft202012Validator({**described, **content["schema"]}).validate(answer.json())
    headers = described["components"]["headers"]
    always = {
        name
        for name, header in response["headers"].items()
        if headers.get(header.get("$ref", "").rpartition("/")[2], header).get("required")
    }
    assert always == {"x-request-id"}
    assert always <= set(answer.headers)
