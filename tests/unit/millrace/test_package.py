"""A package answers as its trainer did, or it is not loaded; nothing in it can run."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch

from millrace.encoding import encode, labels
from millrace.errors import ArtifactError, DigestError, MillraceError, PackageError
from millrace.package import (
    CARD,
    PREDICTION,
    PROBE,
    REFERENCE,
    SCALE,
    SPEC,
    WEIGHTS,
    LabelScale,
    Predictor,
    headline,
    load_predictor,
    logged_answers,
    package_spec,
    publish_package,
    reference_sample,
)
from millrace.pipeline import Pipeline
from millrace.storage import Artifact, ObjectStore

KINDS = ["binary", "multiclass", "regression"]
SCALES = {"regression": LabelScale(100.0, 30.0)}
Make = Callable[..., Any]


def publish(
    root: Path, pipeline: Pipeline, rows: pd.DataFrame, make_predictor: Make, seed: int = 0
) -> tuple[Predictor, Artifact]:
    predictor = make_predictor(pipeline, rows, seed=seed, scale=SCALES.get(pipeline.spec.data.label.kind))
    package = publish_package(
        ObjectStore(str(root / "objects")),
        f"packages/{seed}",
        predictor=predictor,
        reference=rows,
        card="# tiny",
        lineage={"data": "digest"},
        metrics={"validation_loss": 0.5},
    )
    return predictor, package


def changed(package: Artifact, name: str, content: bytes) -> Artifact:
    """A package of its own that differs in one file."""
    files = {known: package.read(known) for known in package.entries} | {name: content}
    return package.store.publish(f"{package.key}-changed", files)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_package_gives_identical_answers(
    kind: str, write_pipeline: Make, make_rows: Make, make_predictor: Make, tmp_path: Path
) -> None:
    pipeline, rows = write_pipeline(tmp_path, kind), make_rows(kind)
    predictor, package = publish(tmp_path, pipeline, rows, make_predictor)
    loaded = load_predictor(package, pipeline)
    np.testing.assert_array_equal(loaded.predict_rows(rows), predictor.predict_rows(rows))
    assert loaded.spec == package_spec(package) == pipeline.spec
    assert loaded.scale == predictor.scale
    assert not loaded.module.training
    assert package.summary == {"pipeline": "tiny", "metrics": {"validation_loss": 0.5}}
    assert package.read(CARD) == b"# tiny"


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_holds_the_rows_and_their_answers(
    kind: str, write_pipeline: Make, make_rows: Make, make_predictor: Make, tmp_path: Path
) -> None:
    pipeline, rows = write_pipeline(tmp_path, kind), make_rows(kind)
    predictor, package = publish(tmp_path, pipeline, rows, make_predictor)
    reference = reference_sample(package)
    pd.testing.assert_frame_equal(reference.drop(columns=PREDICTION), rows, check_dtype=False)
    expected = headline(predictor.predict_rows(rows), pipeline.spec)
    assert reference[PREDICTION].tolist() == expected.tolist()


@pytest.mark.parametrize("name", [WEIGHTS, SPEC, SCALE, PROBE])
def test_a_tampered_file_is_refused_before_it_is_parsed(
    name: str, tiny: Pipeline, make_rows: Make, make_predictor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, package = publish(tmp_path, tiny, make_rows(), make_predictor)
    path = package.local(name, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def parse(_: bytes) -> None:
        raise AssertionError("the weights were parsed")

    monkeypatch.setattr(safetensors.torch, "load", parse)
    with pytest.raises(DigestError, match=f"'{name}' differs from its manifest"):
        load_predictor(package, tiny)


@pytest.mark.parametrize(
    ("old", "new", "got"),
    [
        ("torch.nn.Linear(width, inputs.outputs)", "torch.nn.Linear(width, 7)", "size mismatch"),
        ("torch.nn.Linear(units, width)", "torch.nn.Identity(), torch.nn.Linear(units, width)", "Missing key(s)"),
        ("def build(inputs, options):", "def build(inputs, options):\n    options['depth']", "KeyError: 'depth'"),
        ("numeric = torch", "numeric = batch['text']\n        torch", "KeyError: 'text'"),
        ("[numeric, batch", "[numeric, numeric, batch", "RuntimeError: mat1 and mat2"),
    ],
)
def test_code_that_does_not_fit_the_weights_is_refused(
    old: str,
    new: str,
    got: str,
    tiny: Pipeline,
    write_pipeline: Make,
    make_rows: Make,
    make_predictor: Make,
    tmp_path: Path,
) -> None:
    _, package = publish(tmp_path, tiny, make_rows(), make_predictor)
    model = (tiny.folder / "model.py").read_text()
    assert model.count(old) == 1
    other = write_pipeline(tmp_path / "other", model=model.replace(old, new))
    with pytest.raises(PackageError) as caught:
        load_predictor(package, other)
    assert caught.value.what == (
        f"package packages/0: its weights do not fit the module that {other.folder}/model.py builds"
    )
    assert got in (caught.value.got or "")
    assert caught.value.next == "check out the code the package was trained with, or train again"


def test_code_that_fits_and_answers_otherwise_is_refused(
    tiny: Pipeline, write_pipeline: Make, make_rows: Make, make_predictor: Make, tmp_path: Path
) -> None:
    _, package = publish(tmp_path, tiny, make_rows(), make_predictor)
    model = (tiny.folder / "model.py").read_text()
    other = write_pipeline(tmp_path / "other", model=model.replace("Tanh", "ReLU"))
    with pytest.raises(PackageError) as caught:
        load_predictor(package, other)
    assert caught.value.what == (
        "package packages/0: the loaded model answers its probe rows differently from the trained one"
    )
    assert "largest difference" in (caught.value.got or "")
    assert caught.value.allowed == "0.001"


def test_a_broken_model_file_says_so_itself(
    tiny: Pipeline, write_pipeline: Make, make_rows: Make, make_predictor: Make, tmp_path: Path
) -> None:
    _, package = publish(tmp_path, tiny, make_rows(), make_predictor)
    with pytest.raises(MillraceError, match="raises when it is imported"):
        load_predictor(package, write_pipeline(tmp_path / "other", model="1 / 0"))


def test_weights_that_are_none_are_refused(
    tiny: Pipeline, make_rows: Make, make_predictor: Make, tmp_path: Path
) -> None:
    _, package = publish(tmp_path, tiny, make_rows(), make_predictor)
    with pytest.raises(ArtifactError, match=r"holds no weights.*\n.*a header of"):
        load_predictor(changed(package, WEIGHTS, b"no tensors"), tiny)


def test_nothing_in_a_package_can_run(tiny: Pipeline, make_rows: Make, make_predictor: Make, tmp_path: Path) -> None:
    _, package = publish(tmp_path, tiny, make_rows(), make_predictor)
    parsers: dict[str, Callable[[bytes], Any]] = {
        WEIGHTS: safetensors.torch.load,
        SPEC: json.loads,
        SCALE: json.loads,
        PROBE: json.loads,
        REFERENCE: lambda content: pd.read_parquet(BytesIO(content)),
        CARD: bytes.decode,
    }
    assert set(package.entries) == set(parsers)
    for name, parse in parsers.items():
        content = package.read(name)
        assert parse(content) is not None
        assert not content.startswith((b"PK", b"\x80")), f"{name} is a zip or a pickle"


# Answers


def test_the_parts_of_a_table_are_answered_as_the_whole(tiny: Pipeline, make_rows: Make, make_predictor: Make) -> None:
    rows = make_rows()
    predictor = make_predictor(tiny, rows)
    whole = predictor.predict(encode(rows, tiny.spec.data))
    np.testing.assert_allclose(predictor.predict_rows(rows, batch_rows=7), whole, rtol=1e-5)
    assert whole.dtype == np.float32


@pytest.mark.parametrize(("kind", "shape"), [("binary", ()), ("multiclass", (3,)), ("regression", ())])
def test_answers_have_the_shape_of_their_kind(
    kind: str, shape: tuple[int, ...], write_pipeline: Make, make_rows: Make, make_predictor: Make, tmp_path: Path
) -> None:
    pipeline, rows = write_pipeline(tmp_path, kind), make_rows(kind)
    predictor = make_predictor(pipeline, rows, scale=SCALES.get(kind))
    answers = predictor.predict_rows(rows)
    assert answers.shape == (len(rows), *shape)
    assert predictor.predict_rows(rows.head(0)).shape == (0, *shape)
    if kind == "multiclass":
        np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)
    elif kind == "binary":
        assert ((answers > 0) & (answers < 1)).all()
    else:
        plain = Predictor(predictor.spec, predictor.module, LabelScale()).predict_rows(rows)
        np.testing.assert_allclose(answers, plain * 30 + 100, rtol=1e-5)


def test_the_likeliest_class_is_the_prediction(make_spec: Make) -> None:
    spec = make_spec("multiclass")
    answers = np.float32([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    assert headline(answers, spec).tolist() == ["high", "low"]
    logged = pd.DataFrame(answers, columns=["probability_low", "probability_mid", "probability_high"])
    np.testing.assert_array_equal(logged_answers(logged, spec), answers)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_one_answer_a_row_is_its_own_headline(kind: str, make_spec: Make) -> None:
    answers = np.float32([0.25, 0.5])
    assert headline(answers, make_spec(kind)) is answers
    np.testing.assert_array_equal(logged_answers(pd.DataFrame({PREDICTION: answers}), make_spec(kind)), answers)


def test_probe_labels_are_no_part_of_what_is_asked(
    tiny: Pipeline, make_rows: Make, make_predictor: Make, tmp_path: Path
) -> None:
    rows = make_rows()
    _, package = publish(tmp_path, tiny, rows, make_predictor)
    probe = json.loads(package.read(PROBE))
    assert len(probe["rows"]) == len(probe["answers"]) == 16
    assert set(probe["rows"][0]) == {"size", "weight", "colour"}
    assert set(labels(rows, tiny.spec.data)) == {0.0, 1.0}
