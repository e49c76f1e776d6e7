"""The pipeline that is served is the fixture's: the weights fit it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.fixture import reference_spec
from benchmarks.serving.millrace_server import NAME, write_pipeline
from millrace.spec.load import load_spec


def test_features_keep_their_order(tmp_path: Path) -> None:
    write_pipeline(tmp_path / NAME, {"replicas": 3})
    spec = load_spec(tmp_path / NAME)
    assert list(spec.data.features) == list(reference_spec()["data"]["features"])
    assert spec.serving.replicas == 3
