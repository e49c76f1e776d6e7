"""The model package: what is registered and served. Weights are safetensors, everything else is JSON or Parquet.

Loading one runs this repository's code and the pipeline folder's, never code from the artifact. A package carries
probe rows with the answers its trainer got; a loaded model must give the same answers before it may serve. It holds
the files named here and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from millrace import parquet, strict_json, weights
from millrace.encoding import TableInputs, encode
from millrace.errors import MillraceError, PackageError
from millrace.spec import PipelineSpec
from millrace.spec.load import parse_spec
from millrace.storage import Artifact, ObjectStore

if TYPE_CHECKING:
    import torch

    from millrace.pipeline import Pipeline

WEIGHTS = "weights.safetensors"
SPEC = "spec.json"
SCALE = "scale.json"
REFERENCE = "reference.parquet"
PROBE = "probe.json"
CARD = "model_card.md"
_FILES = {WEIGHTS, SPEC, SCALE, REFERENCE, PROBE, CARD}

#: Column of the model's answer in the reference sample and the inference log: the probability of the positive class,
#: the most likely class, or the predicted value.
PREDICTION = "prediction"

_PROBE_ROWS = 16
_PROBE_TOLERANCE = 1e-3
_MAX_PROBE_ROWS = 1000
_MAX_REFERENCE_ROWS = 10_000_000


_Document = TypeVar("_Document", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class LabelScale:
    """Regression models predict (label - mean) / std; for the other kinds this is the identity."""

    mean: float = 0.0
    std: float = 1.0


class _Scale(BaseModel):
    """scale.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mean: FiniteFloat
    std: FiniteFloat = Field(gt=0)


class _Probe(BaseModel):
    """probe.json: rows of features, and the trainer's answer to each."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: list[dict[str, bool | float | str | None]] = Field(min_length=1, max_length=_MAX_PROBE_ROWS)
    answers: list[FiniteFloat] | list[list[FiniteFloat]]

    @field_validator("answers")
    @classmethod
    def _even(cls, answers: list[float] | list[list[float]]) -> list[float] | list[list[float]]:
        if len({len(answer) for answer in answers if isinstance(answer, list)}) > 1:
            raise ValueError("answers have different lengths")
        return answers


@dataclass(frozen=True)
class Predictor:
    """A loaded model: encoded rows in, answers out. Answers are float32: [rows] probabilities of the positive class
    (binary), [rows, classes] probabilities (multiclass) or [rows] values (regression)."""

    spec: PipelineSpec
    module: torch.nn.Module
    scale: LabelScale

    def predict(self, batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Answers for an encoded batch (`millrace.encoding.encode`)."""
        import torch

        with torch.inference_mode():
            logits = self.module({name: torch.from_numpy(array) for name, array in batch.items()})
            return self.answers(logits)

    def answers(self, logits: torch.Tensor) -> NDArray[np.float32]:
        """The answers that belong to the module's output, float [rows, outputs]."""
        import torch

        kind = self.spec.data.label.kind
        logits = logits.float()
        if kind == "multiclass":
            result = torch.softmax(logits, dim=1)
        elif kind == "binary":
            result = torch.sigmoid(logits[:, 0])
        else:
            result = logits[:, 0] * self.scale.std + self.scale.mean
        array: NDArray[np.float32] = result.cpu().numpy()
        return array

    def predict_rows(self, rows: pd.DataFrame, batch_rows: int = 16_384) -> NDArray[np.float32]:
        """Answers for a table of rows, in batches of `batch_rows`."""
        parts = [
            self.predict(encode(rows.iloc[start : start + batch_rows], self.spec.data))
            for start in range(0, len(rows), batch_rows)
        ]
        if not parts:
            shape = (0, self.spec.data.label.outputs) if self.spec.data.label.kind == "multiclass" else (0,)
            return np.zeros(shape, np.float32)
        return np.concatenate(parts)


def headline(answers: NDArray[np.float32], spec: PipelineSpec) -> NDArray[Any]:
    """One answer a row, as the `prediction` column holds it."""
    if spec.data.label.kind == "multiclass":
        classes: NDArray[Any] = np.asarray(spec.data.label.classes, dtype=object)[answers.argmax(axis=1)]
        return classes
    return answers


def logged_answers(rows: pd.DataFrame, spec: PipelineSpec) -> NDArray[np.float32]:
    """The answers in rows of the inference log, in the shape `Predictor.predict` gave them."""
    label = spec.data.label
    columns = [f"probability_{name}" for name in label.classes] if label.kind == "multiclass" else PREDICTION
    return rows[columns].to_numpy(dtype=np.float32)


def publish_package(
    store: ObjectStore,
    key: str,
    *,
    predictor: Predictor,
    reference: pd.DataFrame,
    card: str,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Artifact:
    """Commit the package of a trained model under `key`.

    `reference` is a sample of the training rows (features and label), the profile that checks compare with.
    """
    import safetensors.torch

    answers = predictor.predict_rows(reference)
    reference = reference.assign(**{PREDICTION: headline(answers, predictor.spec)})
    probe_rows = reference.head(_PROBE_ROWS)
    probe = {
        "rows": json.loads(
            probe_rows[list(predictor.spec.data.features)].to_json(orient="records", double_precision=15)
        ),
        "answers": answers[: len(probe_rows)].tolist(),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in predictor.module.state_dict().items()}
    return store.publish(
        key,
        {
            WEIGHTS: safetensors.torch.save(state),
            SPEC: predictor.spec.model_dump_json(indent=1).encode(),
            SCALE: json.dumps({"mean": predictor.scale.mean, "std": predictor.scale.std}).encode(),
            REFERENCE: parquet.write(reference),
            PROBE: json.dumps(probe).encode(),
            CARD: card.encode(),
        },
        # A metric that could not be computed (all rows of one class) is none.
        summary={
            "pipeline": predictor.spec.name,
            "metrics": {name: value for name, value in metrics.items() if np.isfinite(value)},
        },
        lineage=lineage,
    )


def package_spec(package: Artifact) -> PipelineSpec:
    """The spec that the package's model was trained by.

    Raises:
        ArtifactError: it is no JSON.
        SpecError: it is no spec.
    """
    return _parse_spec(package, package.read(SPEC))


def reference_sample(package: Artifact) -> pd.DataFrame:
    """Sample of the rows the model was trained on, with its answers in `prediction`.

    Raises:
        ArtifactError: it is no table of a reasonable size.
        PackageError: it lacks a column of the contract.
    """
    content, data = package.read(REFERENCE), package_spec(package).data
    rows = parquet.read(content, f"{package.key}/{REFERENCE}", max_rows=_MAX_REFERENCE_ROWS)
    if absent := {*data.features, data.label.column, PREDICTION} - set(rows):
        raise PackageError(
            f"package {package.key}: '{REFERENCE}' lacks columns", got=", ".join(sorted(absent)), next="train again"
        )
    return rows


def card_text(package: Artifact) -> str:
    """The model card, Markdown.

    Raises:
        PackageError: it is no text.
    """
    try:
        return package.read(CARD).decode()
    except UnicodeDecodeError as error:
        raise PackageError(f"package {package.key}: '{CARD}' is no text", got=str(error), next="train again") from error


def load_predictor(package: Artifact, pipeline: Pipeline) -> Predictor:
    """The package's model, built by the pipeline folder's code and proven on the probe rows.

    Raises:
        PackageError: it is another pipeline's, or the folder's code does not fit the weights, or does not answer as the
            trainer did.
        ArtifactError: a file is not of its kind.
        DigestError: stored bytes differ from the manifest; nothing was parsed.
        SpecError: its spec is not valid.
    """
    if set(package.entries) != _FILES:
        raise PackageError(
            f"package {package.key} has other files than a package has",
            got=", ".join(sorted(set(package.entries) ^ _FILES)),
            allowed=", ".join(sorted(_FILES)),
            next="train again",
        )
    # All of them are checked before the first is parsed.
    files = {name: package.read(name) for name in (SPEC, WEIGHTS, SCALE, PROBE)}
    spec = _parse_spec(package, files[SPEC])
    if spec.name != pipeline.name:
        raise PackageError(
            f"package {package.key} is another pipeline's", got=spec.name, allowed=pipeline.name, next="train again"
        )
    tensors = weights.load(files[WEIGHTS], f"{package.key}/{WEIGHTS}")
    scale = LabelScale(**_parsed(package, files, SCALE, _Scale).model_dump())
    probe = _parsed(package, files, PROBE, _Probe)
    expected = np.asarray(probe.answers, np.float32)
    build = pipeline.build_model
    try:
        rows = pd.DataFrame(probe.rows, columns=list(spec.data.features))
        # The folder's code may be any other than the one that trained, so it may raise anything.
        module = build(TableInputs.shaped(spec.data), spec.model.options)
        _require_types(module, tensors)
        module.load_state_dict(tensors, strict=True)
        predictor = Predictor(spec, module.eval(), scale)
        found = predictor.predict_rows(rows)
    except MillraceError:
        raise
    except Exception as error:
        raise PackageError(
            f"package {package.key}: its weights do not fit the module that {pipeline.folder}/model.py builds",
            got=f"{type(error).__name__}: {error}",
            next="check out the code the package was trained with, or train again",
        ) from error
    if expected.shape != found.shape or not np.allclose(found, expected, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE):
        same = expected.shape == found.shape
        raise PackageError(
            f"package {package.key}: the loaded model answers its probe rows differently from the trained one",
            got=f"largest difference {float(np.max(np.abs(found - expected))):.4g}" if same else found.shape,
            allowed=f"{_PROBE_TOLERANCE:g}" if same else str(expected.shape),
            next="check out the code the package was trained with, or train again",
        )
    return predictor


def _parse_spec(package: Artifact, content: bytes) -> PipelineSpec:
    where = f"{package.key}/{SPEC}"
    return parse_spec(strict_json.parse(content, where), where)


def _parsed(package: Artifact, files: Mapping[str, bytes], name: str, kind: type[_Document]) -> _Document:
    document = strict_json.parse(files[name], f"{package.key}/{name}")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PackageError(
            f"package {package.key}: '{name}' is not what a package holds",
            got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            next="train again",
        ) from None


def _require_types(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """torch copies a tensor of any type into a parameter of another, whatever is lost."""
    for name, own in module.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise ValueError(f"{name} is {tensors[name].dtype}, the module's is {own.dtype}")
