"""The command on a pipeline that learns from texts: what works, and what is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from flows import cli, export, stack
from flows.inspect import validate_pipeline
from millrace.errors import ConfigError, ConflictError, DigestError, MillraceError, PackageError
from millrace.language_model import LanguageModel
from millrace.ledger import Ledger
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore
from millrace.text_package import publish_text_package
from millrace.texts import encode
from tasks.registry import Version
from tests.prose import NAME, write_prose


def ask(settings: Settings, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments), env=settings.environment() | {"COLUMNS": "200"})


def test_it_is_validated_and_shown(prose: Pipeline, local_settings: Settings) -> None:
    shown = ask(local_settings, "validate", NAME)
    assert shown.exit_code == 0, shown.output
    assert "bytes, learned 64 at a time" in shown.stdout
    found = json.loads(ask(local_settings, "validate", NAME, "--json").stdout)
    parameters = prose.build_model(_inputs(prose), prose.spec.model.options).parameters()
    assert found["model_parameters"] == sum(parameter.numel() for parameter in parameters)
    assert found["quarantined"] == 2
    assert found["texts"]["sequence_length"] == 64


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        (
            "model.py",
            "import torch\ndef build(i, o): return torch.nn.Embedding(256, 3)",
            "answers with the wrong shape",
        ),
        ("model.py", "import torch\ndef build(i, o): return torch.nn.Linear(2, 2)", "does not take sequences"),
        ("export.py", "def llama(i, o, w): return 1", "nothing that can be written"),
        ("plan.py", "def plan(i, o): return 1", "gives no plan"),
    ],
)
def test_code_that_does_not_fit_is_refused(
    prose: Pipeline, local_settings: Settings, file: str, text: str, told: str
) -> None:
    (prose.folder / file).write_text(text)
    with pytest.raises(MillraceError, match=told):
        validate_pipeline(local_settings, NAME)


def test_sizes_that_do_not_fit_are_told_as_the_model_tells_them(local_settings: Settings) -> None:
    write_prose(local_settings.pipelines, {"model.options": {"size": "9M"}})
    with pytest.raises(ConfigError, match=r"model.options.size"):
        validate_pipeline(local_settings, NAME)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",), ("rollback",), ("traffic",), ("traffic", "--only", "1"), ("rollout",), ("rollout", "--stop"),
        ("rollout", "--resume"), ("shadow",), ("demo",), ("replay", "--start", "2024-01-01", "--end", "2024-02-01"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_needs_a_served_model_says_so(
    prose: Pipeline, local_settings: Settings, arguments: tuple[str, ...]
) -> None:
    refused = ask(local_settings, arguments[0], NAME, *arguments[1:])
    assert isinstance(refused.exception, ConfigError), refused.output
    assert "its models are not served" in refused.exception.what


def test_status_names_its_champion(
    prose: Pipeline, tiny: Pipeline, local_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "description", lambda *_: None)
    assert stack.stack_and_pipelines(local_settings)["unserved"] == {NAME: None}
    Ledger(local_settings.ledger).decide(NAME, "promoted", "7", {})
    found = stack.stack_and_pipelines(local_settings)
    assert found["unserved"] == {NAME: "7"}
    assert found["pipelines"] == {NAME: None, "tiny": None}
    (tiny.folder / "pipeline.yaml").write_text("name: [")
    assert stack.stack_and_pipelines(local_settings)["unserved"] == {NAME: "7"}


# Export


@pytest.fixture
def champion(
    prose: Pipeline,
    local_settings: Settings,
    make_language_model: Callable[..., LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> LanguageModel:
    """The model of version 3, the champion in the registry."""
    model, store = make_language_model(prose, seed=4), ObjectStore.of(local_settings)
    examples = [encode("the miller")]
    package = publish_text_package(store, "packages/3", model=model, examples=examples, card="", lineage={}, metrics={})
    known = Version(NAME, "3", package.key, package.digest, ("champion",), 0.0, "", {})

    class Registry:
        def __init__(self, settings: Settings) -> None: ...

        def by_alias(self, pipeline: str, alias: str) -> Version | None:
            return known if alias in known.aliases else None

        def version(self, pipeline: str, number: str) -> Version:
            return {"3": known, "2": Version(NAME, "2", package.key, "another", (), 0.0, "", {})}[number]

    monkeypatch.setattr(export, "Registry", Registry)
    return model


def test_the_champion_is_written_for_other_programs(
    champion: LanguageModel, local_settings: Settings, tmp_path: Path
) -> None:
    told = ask(local_settings, "export", NAME, "--to", str(tmp_path / "out"))
    assert told.exit_code == 0, told.output
    assert "version 3 for other programs" in told.stdout
    tensors = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    own = champion.module.state_dict()
    assert torch.equal(tensors["model.norm.weight"], own["norm.weight"])
    assert len(tensors) == len(own)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_size"], config["vocab_size"], config["max_position_embeddings"]) == (32, 256, 64)


def test_it_is_exported_with_the_sizes_that_it_was_trained_with(
    champion: LanguageModel, local_settings: Settings, tmp_path: Path
) -> None:
    write_prose(local_settings.pipelines, {"model.options": {"size": "5M"}, "data.sequence_length": 128})
    # The package is built by its own spec; the folder's is that of the next training.
    found = export.export_version(local_settings, NAME, tmp_path / "out", "3")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["hidden_size"], config["max_position_embeddings"]) == (32, 64)
    assert set(found["files"]) == {str(tmp_path / "out" / name) for name in ("config.json", "model.safetensors")}


def test_a_package_that_was_exchanged_is_not_exported(
    champion: LanguageModel, local_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(DigestError, match="version 2"):
        export.export_version(local_settings, NAME, tmp_path / "out", "2")
    assert not (tmp_path / "out").exists()


def test_without_a_champion_nothing_is_exported(
    champion: LanguageModel, local_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CHAMPION", "nobody")
    with pytest.raises(ConflictError, match="has no champion"):
        export.export_version(local_settings, NAME, tmp_path / "out", None)


def test_a_table_that_does_not_say_how_is_refused(
    champion: LanguageModel, tiny: Pipeline, local_settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(PackageError):
        export.export_version(local_settings, "tiny", tmp_path / "out", "3")


def _inputs(pipeline: Pipeline) -> Any:
    from millrace.text_package import text_inputs

    return text_inputs(pipeline.spec)
