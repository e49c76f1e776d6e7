"""Stored bytes that were changed or cut: the same content, or an error of ours that names what is damaged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millrace import inference_log
from millrace.errors import ArtifactError, ConfigError, DataError, DigestError, PackageError, SpecError
from millrace.inference_log import answers_writer, compact, outcomes_writer, read_answers, read_joined, read_outcomes
from millrace.language_model import LanguageModel
from millrace.package import load_predictor, reference_sample
from millrace.requests import RequestContract
from millrace.spec import PipelineSpec
from millrace.storage import MANIFEST, Artifact, ObjectStore
from millrace.text_package import load_language_model, publish_text_package
from millrace.texts import encode
from ray_jobs.serve.versions import Target, load_version
from tests.prose import write_prose
from tests.unit.fuzz.material import examples, mangled, mutated, texts
from tests.unit.ray_jobs.serve.world import World

_FILES = {"rows.parquet": b"PAR1 rows", "deep/notes.txt": b"some notes", "empty": b""}
_SEGMENTS: dict[bool, dict[str, bytes]] = {}
_SUMMARY = {"rows": 3, "reasons": {"size: below 0": 2}}


def published(root: Path) -> Artifact:
    return ObjectStore(str(root)).publish("a/b", _FILES, summary=_SUMMARY, lineage={"window": "w"})


def assert_whole_or_refused(root: Path) -> None:
    """The artifact reads as it was committed, or an error says that it does not."""
    with refusals():
        found = ObjectStore(str(root)).find("a/b")
        if found is None:
            return
        # Lineage and time are not covered by the digest: they name where it came from, not what it is.
        assert dict(found.summary) == _SUMMARY
        assert set(found.entries) == set(_FILES)
        assert found.num_bytes >= 0
        for name, content in _FILES.items():
            with refusals():
                assert found.read(name) == content
            with refusals():
                assert found.local(name, root / "cache").read_bytes() == content


@contextmanager
def refusals() -> Iterator[None]:
    try:
        yield
    except (ArtifactError, DigestError) as error:
        assert "a/b" in error.what
        assert error.next


@given(data=st.data())
def test_a_manifest_with_bytes_wrong(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        published(Path(folder))
        manifest = Path(folder) / "a/b" / MANIFEST
        manifest.write_bytes(data.draw(mangled(manifest.read_bytes())))
        assert_whole_or_refused(Path(folder))


@given(data=st.data())
def test_a_manifest_with_values_wrong(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        published(Path(folder))
        manifest = Path(folder) / "a/b" / MANIFEST
        manifest.write_text(json.dumps(data.draw(mutated(json.loads(manifest.read_bytes())))))
        assert_whole_or_refused(Path(folder))


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"", b"\xff", b"1" * 5000, b"null", b"[]"])
def test_a_manifest_that_is_none(content: bytes, tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "a/b" / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read"):
        ObjectStore(str(tmp_path)).find("a/b")


@given(data=st.data())
@examples(2)
def test_files_with_bytes_wrong_or_gone(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifact = published(Path(folder))
        name = data.draw(st.sampled_from(sorted(_FILES)))
        path = Path(folder) / "a/b" / artifact.entries[name].path
        match data.draw(st.sampled_from(["mangle", "remove", "folder"])):
            case "mangle":
                path.write_bytes(data.draw(mangled(path.read_bytes())))
            case "remove":
                path.unlink()
            case _:
                path.unlink()
                path.mkdir()
        assert_whole_or_refused(Path(folder))


@given(key=texts)
@example(key="a/../../b")
@examples(2)
def test_any_key(key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ObjectStore(str(Path(folder) / "store"))
        try:
            assert store.find(key) is None
        except (ArtifactError, DigestError) as error:
            assert error.next


@given(data=st.data())
@examples(6)
def test_a_package_with_values_wrong_under_good_digests(data: st.DataObject) -> None:
    """Digests prove that bytes are as they were written, not that what wrote them was sound."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), {"kind": "binary"})
        good = world.store.get(world.publish("1").package_key)
        files = {name: good.read(name) for name in good.entries}
        name = data.draw(st.sampled_from(sorted(files)))
        wrong = world.store.publish("packages/wrong", files | {name: data.draw(mangled(files[name]))})
        for read in (
            lambda: load_predictor(wrong, world.pipeline),
            lambda: reference_sample(wrong),
            lambda: load_version(Target("1", wrong.key, wrong.digest), world.store, world.pipeline),
        ):
            try:
                read()
            except (DataError, PackageError, SpecError) as error:
                assert error.next


@given(data=st.data())
@examples(6)
def test_a_language_models_package_with_values_wrong_under_good_digests(
    data: st.DataObject, make_language_model: Callable[..., LanguageModel]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pipeline, store = write_prose(Path(folder)), ObjectStore(f"{folder}/objects")
        model, examples_of_it = make_language_model(pipeline), [encode("a fox eats"), encode("the grain")]
        good = publish_text_package(
            store, "packages/good", model=model, examples=examples_of_it, card="", lineage={}, metrics={}
        )
        files = {name: good.read(name) for name in good.entries}
        name = data.draw(st.sampled_from(sorted(files)))
        wrong = store.publish("packages/wrong", files | {name: data.draw(mangled(files[name]))})
        try:
            load_language_model(wrong, pipeline)
        except (DataError, PackageError, ConfigError) as error:
            assert error.next


# The inference log -----------------------------------------------------------------------------------------------


def spec_of(make_spec: Callable[..., PipelineSpec]) -> PipelineSpec:
    return make_spec("multiclass")


def write_log(folder: Path, spec: PipelineSpec, *, close: bool) -> None:
    """Three answers of two rows and their outcomes, in segments that are open or closed.

    The same bytes each time: a segment tells when it was written, and Hypothesis draws places in its bytes.
    """
    if close not in _SEGMENTS:
        with tempfile.TemporaryDirectory() as name:
            record_log(Path(name), spec, close=close)
            _SEGMENTS[close] = {
                path.relative_to(name).as_posix(): path.read_bytes() for path in Path(name).rglob("*") if path.is_file()
            }
    for name, content in _SEGMENTS[close].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def record_log(folder: Path, spec: PipelineSpec, *, close: bool) -> None:
    contract = RequestContract(spec)
    answers, outcomes = answers_writer(folder, spec.data, 3600), outcomes_writer(folder, spec.data, 3600)
    body = json.dumps(
        {"rows": [{"size": 1.0, "weight": None, "colour": "red"}, {"size": 2.0, "colour": None}]}
    ).encode()
    for number in range(3):
        answers.append(
            inference_log.answer_record(
                contract.parse(body),
                request_id=f"r{number}",
                version="1",
                answered_at=datetime(2024, 1, 1 + number, tzinfo=UTC),
                seconds=0.01,
                prediction=["low", "high"],
                probabilities={"low": [0.5, 0.2], "mid": [0.3, 0.3], "high": [0.2, 0.5]},
            )
        )
        known = [{"request_id": f"r{number}", "row": 0, "label": "low"}]
        outcomes.append(inference_log.outcome_record(contract.parse_outcomes(json.dumps({"outcomes": known}).encode())))
    if close:
        answers.close()
        outcomes.close()
    else:
        # As a killed process leaves them: the lines, and no lock.
        lines = {path: path.read_bytes() for path in folder.glob("*/*.jsonl")}
        answers.close()
        outcomes.close()
        for path, content in lines.items():
            path.with_suffix(".parquet").unlink()
            path.write_bytes(content)


@given(data=st.data(), close=st.booleans())
@examples(1.5)
def test_log_segments_with_bytes_wrong(
    data: st.DataObject, close: bool, make_spec: Callable[..., PipelineSpec]
) -> None:
    spec = spec_of(make_spec)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, spec, close=close)
        path = data.draw(st.sampled_from(sorted(folder.glob("*/*"))))
        path.write_bytes(data.draw(mangled(path.read_bytes())))
        assert_readable_or_refused(folder, spec)
        try:
            compact(folder)
        except DataError as error:
            assert str(path.name) in str(error)
        assert_readable_or_refused(folder, spec)


@given(data=st.data())
@examples(1)
def test_log_lines_with_values_wrong(data: st.DataObject, make_spec: Callable[..., PipelineSpec]) -> None:
    spec = spec_of(make_spec)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, spec, close=False)
        path = data.draw(st.sampled_from(sorted(folder.glob("*/*"))))
        lines = path.read_bytes().splitlines()
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = json.dumps(data.draw(mutated(json.loads(lines[at])))).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
        assert_readable_or_refused(folder, spec)
        try:
            compact(folder)
        except DataError as error:
            assert str(path.name) in str(error)
        assert_readable_or_refused(folder, spec)


@given(at=st.integers(0, 2000))
def test_a_torn_last_line_loses_that_line_only(at: int, make_spec: Callable[..., PipelineSpec]) -> None:
    spec = spec_of(make_spec)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, spec, close=False)
        (path,) = (folder / "answers").glob("*")
        content = path.read_bytes()[:at]
        whole = content.count(b"\n")
        path.write_bytes(content)
        if whole == 0:
            # A segment gets its name after its header is written: one without is damaged.
            with pytest.raises(DataError, match="damaged"):
                read_answers(folder, spec.data)
        else:
            assert len(read_answers(folder, spec.data)) == 2 * (whole - 1)


def assert_readable_or_refused(folder: Path, spec: PipelineSpec) -> None:
    for reader in (read_answers, read_outcomes, read_joined):
        read: Callable[[Path, Any], pd.DataFrame] = reader
        try:
            rows = read(folder, spec.data)
        except DataError as error:
            assert error.next
        else:
            assert {"request_id", "row"} <= set(rows.columns)
