"""A pipeline that learns from texts goes through the flows of any other: trained, judged, registered, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from millrace.ledger import Ledger
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore
from millrace.text_package import load_language_model
from tasks.registry import CHALLENGER, CHAMPION, Registry
from tests.prose import NAME, write_prose

pytestmark = [pytest.mark.timeout(300), pytest.mark.drill]


@pytest.fixture(scope="session")
def written(live_pipelines: Path) -> Pipeline:
    return write_prose(live_pipelines)


@pytest.fixture(scope="session")
def trained(millrace: Any, written: Pipeline) -> dict[str, Any]:
    """The answer of the first training."""
    done = millrace("run", NAME, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_it_is_promoted_and_said_not_to_be_served(
    trained: dict[str, Any], written: Pipeline, live_settings: Settings
) -> None:
    assert (trained["outcome"], trained["trained"]) == ("promoted, not served", True)
    bits = {model: metrics["bits_per_byte"] for model, metrics in trained["evaluation"].items()}
    assert set(bits) == {"challenger", "baseline", "ngram"}
    assert bits["challenger"] < bits["baseline"]
    version = Registry(live_settings).by_alias(NAME, CHAMPION)
    assert version is not None
    assert version.version == trained["version"]
    assert CHALLENGER in version.aliases
    assert "promotion: passed" in version.tags["millrace.verdict"]
    package = ObjectStore.of(live_settings).get(version.package_key)
    assert load_language_model(package, written).spec.texts.sequence_length == 64
    assert Ledger(live_settings.ledger).serving(NAME) is None


def test_the_same_training_again_is_not_done_again(trained: dict[str, Any], millrace: Any) -> None:
    done = millrace("run", NAME, "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert (again["outcome"], again["version"]) == ("unchanged", trained["version"])


def test_people_see_it_where_they_look(trained: dict[str, Any], millrace: Any) -> None:
    assert f"has the champion {trained['version']}, which is not served" in millrace("status").stdout
    listed = json.loads(millrace("versions", NAME, "--json").stdout)["versions"]
    assert [(version["version"], version["decision"]) for version in listed] == [(trained["version"], "promoted")]
    refused = millrace("check", NAME)
    assert refused.returncode == 2
    assert "its models are not served" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_champion_is_written_for_other_programs(trained: dict[str, Any], millrace: Any, tmp_path: Path) -> None:
    done = millrace("export", NAME, "--to", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == trained["version"]
    tensors = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].shape == torch.Size([256, 32])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
