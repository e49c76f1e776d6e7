"""What MLflow refuses for good is not asked for again and again; what it cannot do now is."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException

from millrace.errors import ConfigError, MillraceError, ServiceError
from millrace.settings import Settings
from tasks.registry import Registry


class Client:
    """An MLflow client that raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, _method: str) -> Any:
        def ask(*_given: Any, **_named: Any) -> Any:
            raise self.error

        return ask


def rest(code: str) -> RestException:
    return RestException({"error_code": code, "message": "because"})


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (rest("INVALID_PARAMETER_VALUE"), ConfigError),
        (rest("RESOURCE_DOES_NOT_EXIST"), ConfigError),
        (rest("PERMISSION_DENIED"), ConfigError),
        # Another run made it a moment ago: asked again, it is found.
        (rest("RESOURCE_ALREADY_EXISTS"), ServiceError),
        (rest("TEMPORARILY_UNAVAILABLE"), ServiceError),
        (rest("INTERNAL_ERROR"), ServiceError),
        (MlflowException("the server cannot be reached"), ServiceError),
        (requests.ConnectionError("refused"), ServiceError),
    ],
)
def test_what_is_refused_for_good_is_told_from_what_is_away(error: Exception, told: type[MillraceError]) -> None:
    registry = Registry(Settings())
    registry.__dict__["_client"] = Client(error)
    with pytest.raises(told) as caught:
        registry.versions("tiny")
    assert type(caught.value) is told
    assert caught.value.retryable is (told is ServiceError)
    assert caught.value.got
    assert caught.value.next
