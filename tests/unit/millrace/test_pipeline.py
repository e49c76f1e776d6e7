"""A pipeline's folder: its code is loaded when it is used, by path, and its mistakes are named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from millrace import secrets
from millrace.encoding import TableInputs
from millrace.errors import ConfigError, SourceError, UnknownNameError
from millrace.pipeline import Pipeline, Source, load_module, load_pipeline
from millrace.secrets import redact

Make = Callable[..., Pipeline]


def test_a_folder_gives_its_source_and_its_model(tiny: Pipeline) -> None:
    assert tiny.name == "tiny"
    assert isinstance(tiny.source, Source)
    assert tiny.source.fingerprint() == "binary-0", "built with data.source_options"
    assert tiny.source is tiny.source, "built once"
    module = tiny.build_model(TableInputs.shaped(tiny.spec.data), {"width": 3})
    assert isinstance(module, torch.nn.Module)


def test_loading_a_pipeline_runs_none_of_its_code(write_pipeline: Make, tmp_path: Path) -> None:
    pipeline = write_pipeline(tmp_path, source="raise SystemError('ran')", model="raise SystemError('ran')")
    with pytest.raises(ConfigError) as caught:
        _ = pipeline.source
    path = pipeline.folder / "source.py"
    assert caught.value.what == f"data.source: {path} raises when it is imported"
    assert caught.value.got == repr("SystemError: ran")
    with pytest.raises(ConfigError, match=r"model\.build: .*model\.py raises when it is imported"):
        _ = pipeline.build_model


@pytest.mark.parametrize("content", ["def build(:", "import no_such_module_anywhere", "raise KeyError('x')"])
def test_a_file_that_cannot_be_imported_is_tried_again_once_it_is_corrected(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match="raises when it is imported"):
            load_module(tmp_path, "model", "model.build")
    path.write_text("VALUE = 3")
    assert load_module(tmp_path, "model", "model.build").VALUE == 3


def test_two_folders_have_two_modules_and_a_changed_file_a_new_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text(f"NAME = '{name}'")
    one, two = (load_module(tmp_path / name, "model", "model.build") for name in ("one", "two"))
    assert (one.NAME, two.NAME) == ("one", "two")
    assert load_module(tmp_path / "one", "model", "model.build") is one
    (tmp_path / "one" / "model.py").write_text("NAME = 'newer'")
    assert load_module(tmp_path / "one", "model", "model.build").NAME == "newer"
    assert "model" not in sys.modules


@pytest.mark.parametrize(
    ("change", "what", "allowed"),
    [
        ({"data.source": "sauce:Generated"}, "data.source: {folder}/sauce.py does not exist", "did you mean 'source'?"),
        ({"data.source": "source:Generate"}, "data.source: source.py has no 'Generate'", "did you mean 'Generated'?"),
        ({"model": {"build": "model:make"}}, "model.build: model.py has no 'make'", "one of: Tiny, build, torch"),
    ],
)
def test_a_name_that_is_not_there_is_named_with_the_nearest(
    change: dict[str, object], what: str, allowed: str, write_pipeline: Make, tmp_path: Path
) -> None:
    pipeline = write_pipeline(tmp_path, change=change)
    with pytest.raises(UnknownNameError) as caught:
        _ = pipeline.build_model if "model" in change else pipeline.source
    assert caught.value.what == what.format(folder=pipeline.folder)
    assert caught.value.allowed == allowed
    assert (caught.value.next or "").startswith("correct ")


def test_options_that_the_source_refuses_are_told(write_pipeline: Make, tmp_path: Path) -> None:
    pipeline = write_pipeline(tmp_path, change={"data.source_options.colour": "red"})
    with pytest.raises(SourceError) as caught:
        _ = pipeline.source
    assert caught.value.what == "pipeline 'tiny': source:Generated cannot be built with data.source_options"
    assert "unexpected keyword argument 'colour'" in (caught.value.got or "")
    assert caught.value.next == f"correct data.source_options or {pipeline.folder}/source.py"


def test_our_own_errors_of_a_source_pass_through(write_pipeline: Make, tmp_path: Path) -> None:
    source = "from millrace.errors import DataError\ndef Generated(**_):\n    raise DataError('the file is gone')"
    with pytest.raises(Exception, match=r"^the file is gone$"):
        _ = write_pipeline(tmp_path, source=source).source


def test_a_class_without_the_three_answers_is_no_source(write_pipeline: Make, tmp_path: Path) -> None:
    source = "class Generated:\n    def __init__(self, kind): pass\n    def extent(self): pass"
    with pytest.raises(SourceError) as caught:
        _ = write_pipeline(tmp_path, source=source).source
    assert caught.value.what == "pipeline 'tiny': source:Generated is no source"
    assert "fingerprint()" in (caught.value.allowed or "")


def test_the_code_digest_follows_the_python_files(write_pipeline: Make, tmp_path: Path) -> None:
    one = write_pipeline(tmp_path / "a")
    same = write_pipeline(tmp_path / "b", change={"training": {"epochs": 9}})
    assert one.code_digest == same.code_digest, "the spec is no code, the folder's place neither"
    (same.folder / "model.py").write_text("# changed")
    assert load_pipeline("tiny", same.folder.parent).code_digest != one.code_digest
    third = write_pipeline(tmp_path / "c")
    (third.folder / "helpers.py").write_text("")
    assert third.code_digest != one.code_digest


def test_a_secret_option_is_read_from_the_environment_when_the_source_is_built(
    write_pipeline: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "class Generated:\n    def __init__(self, url, kind):\n        raise OSError(f'no answer from {url!r}')\n"
    options = {"data.source_options.url": "postgresql://u:${ENV:ROWS_PASSWORD}@db/x"}
    pipeline = write_pipeline(tmp_path, change=options, source=source)
    with pytest.raises(ConfigError, match="an environment variable that is not set") as caught:
        _ = pipeline.source
    assert caught.value.got == "'ROWS_PASSWORD'"
    monkeypatch.setenv("ROWS_PASSWORD", "hush-hush")
    with pytest.raises(SourceError, match="cannot be built") as refused:
        _ = pipeline.source
    assert "postgresql://u:***@db/x" in str(refused.value)
    assert "hush" not in str(refused.value)
    assert redact("hush-hush") == "***", "known from then on, in whatever text"
    assert "hush" not in str(pipeline.spec.model_dump())
    secrets.forget_all()
