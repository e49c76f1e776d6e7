"""What is written for other programs is theirs to read; nothing that lies there is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import torch

from millrace.errors import ConfigError
from millrace.export import Exported, write
from millrace.pipeline import Pipeline
from millrace.texts import TextInputs

EXPORTED = Exported({"model_type": "llama"}, {"a": torch.arange(6.0).reshape(2, 3).t()})


def test_both_files_are_written_as_hugging_face_reads_them(tmp_path: Path) -> None:
    files = write(EXPORTED, tmp_path / "new" / "model")
    assert [path.name for path in files] == ["model.safetensors", "config.json"]
    assert json.loads(files[1].read_text()) == {"model_type": "llama"}
    with safetensors.safe_open(files[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("a"), EXPORTED.tensors["a"])


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="not empty"):
        write(EXPORTED, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_where_no_folder_can_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written to"):
        write(EXPORTED, tmp_path / "file" / "below")


def test_a_pipeline_that_does_not_say_how_is_refused(tiny: Pipeline) -> None:
    with pytest.raises(ConfigError, match="does not say what its model is called elsewhere"):
        tiny.exported(TextInputs(256, 8), {}, {})


def test_a_function_that_gives_something_else_is_refused(prose: Pipeline) -> None:
    (prose.folder / "export.py").write_text("def llama(inputs, options, weights):\n    return weights\n")
    with pytest.raises(ConfigError, match="nothing that can be written"):
        prose.exported(TextInputs(256, 64), {}, {})
