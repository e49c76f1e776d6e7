"""The service under test, one for each kind of label and module."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from millrace import inference_log
from tests.unit.fuzz.asking import Asked


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression", "named"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    labels = {
        "binary": {"kind": "binary"},
        "multiclass": {"kind": "multiclass", "classes": ["no", "yes"]},
        "regression": {"kind": "regression"},
        "named": {"kind": "binary", "positive": "late"},
    }
    logging.disable(logging.CRITICAL)
    made = Asked(tmp_path_factory.mktemp("asked"), labels[request.param])
    yield made
    # What was answered is in the log and can be read, also after it was closed.
    data = made.world.pipeline.spec.data
    live = inference_log.read_joined(made.world.log_folder, data)
    made.service.close()
    logging.disable(logging.NOTSET)
    closed = inference_log.read_joined(made.world.log_folder, data)
    assert len(live) == len(closed) > 0
