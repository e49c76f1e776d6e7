"""The package of a table's model: what is registered and served. Weights are safetensors, the rest is JSON or Parquet.

Loading one runs this repository's code and the pipeline folder's, never code from the artifact. A package carries
probe rows with the answers its trainer got; a loaded model must give the same answers before it may serve. It holds
the files named here and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from millrace import parquet, weights
from millrace.encoding import TableInputs, encode
from millrace.errors import MillraceError, PackageError
from millrace.package_files import (
    CARD,
    PROBE,
    PROBE_TOLERANCE,
    SPEC,
    WEIGHTS,
    fill,
    package_spec,
    parsed,
    read_files,
    unfit,
    unproven,
)
from millrace.spec import PipelineSpec
from millrace.storage import Artifact, ObjectStore

if TYPE_CHECKING:
    import torch

    from millrace.pipeline import Pipeline

SCALE = "scale.json"
REFERENCE = "reference.parquet"
_FILES = {WEIGHTS, SPEC, SCALE, REFERENCE, PROBE, CARD}

#: Column of the model's answer in the reference sample and the inference log: the probability of the positive class,
#: the most likely class, or the predicted value.
PREDICTION = "prediction"

_PROBE_ROWS = 16
_MAX_PROBE_ROWS = 1000
_MAX_REFERENCE_ROWS = 10_000_000


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

        kind = self.spec.table.label.kind
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
            self.predict(encode(rows.iloc[start : start + batch_rows], self.spec.table))
            for start in range(0, len(rows), batch_rows)
        ]
        if not parts:
            shape = (0, self.spec.table.label.outputs) if self.spec.table.label.kind == "multiclass" else (0,)
            return np.zeros(shape, np.float32)
        return np.concatenate(parts)


def headline(answers: NDArray[np.float32], spec: PipelineSpec) -> NDArray[Any]:
    """One answer a row, as the `prediction` column holds it."""
    if spec.table.label.kind == "multiclass":
        classes: NDArray[Any] = np.asarray(spec.table.label.classes, dtype=object)[answers.argmax(axis=1)]
        return classes
    return answers


def logged_answers(rows: pd.DataFrame, spec: PipelineSpec) -> NDArray[np.float32]:
    """The answers in rows of the inference log, in the shape `Predictor.predict` gave them."""
    label = spec.table.label
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
            probe_rows[list(predictor.spec.table.features)].to_json(orient="records", double_precision=15)
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


def reference_sample(package: Artifact) -> pd.DataFrame:
    """Sample of the rows the model was trained on, with its answers in `prediction`.

    Raises:
        ArtifactError: it is no table of a reasonable size.
        PackageError: it lacks a column of the contract.
    """
    content, data = package.read(REFERENCE), package_spec(package).table
    rows = parquet.read(content, f"{package.key}/{REFERENCE}", max_rows=_MAX_REFERENCE_ROWS)
    if absent := {*data.features, data.label.column, PREDICTION} - set(rows):
        raise PackageError(
            f"package {package.key}: '{REFERENCE}' lacks columns", got=", ".join(sorted(absent)), next="train again"
        )
    return rows


def load_predictor(package: Artifact, pipeline: Pipeline) -> Predictor:
    """The package's model, built by the pipeline folder's code and proven on the probe rows.

    Raises:
        PackageError: it is another pipeline's, or the folder's code does not fit the weights, or does not answer as the
            trainer did.
        ArtifactError: a file is not of its kind.
        DigestError: stored bytes differ from the manifest; nothing was parsed.
        SpecError: its spec is not valid.
    """
    spec, files = read_files(package, pipeline, all_of=_FILES, wanted=(WEIGHTS, SCALE, PROBE))
    tensors = weights.load(files[WEIGHTS], f"{package.key}/{WEIGHTS}")
    scale = LabelScale(**parsed(package, files, SCALE, _Scale).model_dump())
    probe = parsed(package, files, PROBE, _Probe)
    expected = np.asarray(probe.answers, np.float32)
    build = pipeline.build_model
    try:
        rows = pd.DataFrame(probe.rows, columns=list(spec.table.features))
        module = build(TableInputs.shaped(spec.table), spec.model.options)
        predictor = Predictor(spec, fill(module, tensors), scale)
        found = predictor.predict_rows(rows)
    except MillraceError:
        raise
    except Exception as error:
        raise unfit(package, pipeline, error) from error
    if expected.shape != found.shape or not np.allclose(found, expected, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE):
        same = expected.shape == found.shape
        raise unproven(
            package,
            f"largest difference {float(np.max(np.abs(found - expected))):.4g}" if same else found.shape,
            f"{PROBE_TOLERANCE:g}" if same else str(expected.shape),
        )
    return predictor
