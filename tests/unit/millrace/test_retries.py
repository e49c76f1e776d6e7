"""What can help is tried again, what cannot is not, and not for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ArtifactError, DigestError, MillraceError, ServiceError
from millrace.retries import Retries


@given(st.integers(1, 8), st.integers(0, 12))
def test_as_often_as_allowed(attempts: int, failures: int) -> None:
    calls, pauses = [], []

    def work() -> str:
        calls.append(1)
        if len(calls) <= failures:
            raise ServiceError("away")
        return "done"

    retries = Retries(attempts)
    if failures < attempts:
        assert retries.call(work, sleep=pauses.append) == "done"
    else:
        with pytest.raises(ServiceError):
            retries.call(work, sleep=pauses.append)
    assert len(calls) == min(failures + 1, attempts)
    assert all(0 <= pause <= retries.bound(index) for index, pause in enumerate(pauses, start=1))


@pytest.mark.parametrize(("error", "calls"), [(ArtifactError("gone"), 1), (DigestError("cut"), 3)])
def test_only_what_can_help(error: MillraceError, calls: int) -> None:
    made = []

    def work() -> None:
        made.append(1)
        raise error

    with pytest.raises(type(error)):
        Retries(3).call(work, again_on=(DigestError,), sleep=lambda _: None)
    assert len(made) == calls
