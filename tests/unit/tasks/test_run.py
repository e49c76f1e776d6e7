"""A run that goes on by itself ends without a secret in what it says."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from millrace import secrets
from millrace.errors import DataError
from tasks import run
from tasks.run import Interrupted, going_on


@pytest.fixture(autouse=True)
def _of_a_deployment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(run.deployment, "get_id", lambda: "a deployment")
    yield
    secrets.forget_all()


def test_what_interrupted_a_run_is_told_without_secrets() -> None:
    with pytest.raises(Interrupted) as caught, going_on("run-1"):
        raise httpx.ConnectError("cannot reach postgresql://reader:hush-hush@db/rows")
    assert str(caught.value) == "ConnectError: cannot reach postgresql://***@db/rows"
    assert "hush" not in str(caught.value.__cause__)


def test_what_failed_is_no_interruption() -> None:
    with pytest.raises(DataError, match="no rows"), going_on("run-1"):
        raise DataError("no rows")
