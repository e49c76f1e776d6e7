"""Checkpoints over the real S3 protocol: conditional puts, listings, streamed uploads, ranges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints.checkpoints import Checkpoints
from tests.s3 import s3_server


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an empty bucket."""
    with s3_server("bucket"):
        yield "s3://bucket/objects"


def test_saves_on_s3(bucket: str) -> None:
    def state_of(value: float) -> dict[str, torch.Tensor]:
        return {"a": torch.full((300, 5), value), "empty": torch.zeros(0)}

    old = Checkpoints(ObjectStore(bucket), "run/checkpoints", keep=2)
    for step in range(4):
        old.save(step, state_of(float(step)), {})
    new = Checkpoints(ObjectStore(bucket), "run/checkpoints", keep=2)
    state = state_of(-1.0)
    found = new.load_into(state)
    assert found is not None
    assert found.step == 3
    assert torch.equal(state["a"], state_of(3.0)["a"])
    new.save(4, state_of(4.0), {})
    old.save(9, state_of(9.0), {})
    assert [one.step for one in new.committed()][:2] == [4, 9]
    newest = new.newest()
    assert newest is not None
    assert newest.step == 4
