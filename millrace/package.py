"""The model package: what is registered and served. Weights are safetensors, everything else is JSON or Parquet.

Loading one runs this repository's code and the pipeline folder's, never code from the artifact. A package carries
probe rows with the answers its trainer got; a loaded model must give the same answers before it may serve.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from millrace.encoding import TableInputs, encode
from millrace.errors import ArtifactError, PackageError
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

#: Column of the model's answer in the reference sample and the inference log: the probability of the positive class,
#: the most likely class, or the predicted value.
PREDICTION = "prediction"

_PROBE_ROWS = 16
_PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class LabelScale:
    """Regression models predict (label - mean) / std; for the other kinds this is the identity."""

    mean: float = 0.0
    std: float = 1.0


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
    table = BytesIO()
    reference.to_parquet(table, index=False)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in predictor.module.state_dict().items()}
    return store.publish(
        key,
        {
            WEIGHTS: safetensors.torch.save(state),
            SPEC: predictor.spec.model_dump_json(indent=1).encode(),
            SCALE: json.dumps({"mean": predictor.scale.mean, "std": predictor.scale.std}).encode(),
            REFERENCE: table.getvalue(),
            PROBE: json.dumps(probe).encode(),
            CARD: card.encode(),
        },
        summary={"pipeline": predictor.spec.name, "metrics": dict(metrics)},
        lineage=lineage,
    )


def package_spec(package: Artifact) -> PipelineSpec:
    """The spec that the package's model was trained by."""
    content = package.read(SPEC)
    with _readable(package, SPEC):
        document = json.loads(content)
    return parse_spec(document, f"{package.key}/{SPEC}")


def reference_sample(package: Artifact) -> pd.DataFrame:
    """Sample of the rows the model was trained on, with its answers in `prediction`."""
    content = package.read(REFERENCE)
    with _readable(package, REFERENCE):
        return pd.read_parquet(BytesIO(content))


@contextmanager
def _readable(package: Artifact, name: str) -> Iterator[None]:
    """Digests prove that a file is as it was written; that its writer was sound shows when it is parsed."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError, RecursionError) as error:
        raise ArtifactError(
            f"package {package.key}: {name} cannot be read", got=f"{type(error).__name__}: {error}", next="train again"
        ) from error


def load_predictor(package: Artifact, pipeline: Pipeline) -> Predictor:
    """The package's model, built by the pipeline folder's code and proven on the probe rows.

    Raises:
        PackageError: the folder's code does not fit the weights, or does not answer as the trainer did.
        DigestError: stored bytes differ from the manifest; nothing was parsed.
        ArtifactError: a part cannot be read.
        SpecError: its spec is not valid.
    """
    import safetensors.torch

    spec = package_spec(package)
    weights = package.read(WEIGHTS)
    scale_json, probe_json = package.read(SCALE), package.read(PROBE)
    with _readable(package, SCALE):
        stated = json.loads(scale_json)
        scale = LabelScale(float(stated["mean"]), float(stated["std"]))
    with _readable(package, PROBE):
        probe = json.loads(probe_json)
        rows = pd.DataFrame(probe["rows"], columns=list(spec.data.features))
        expected = np.asarray(probe["answers"], np.float32)
    build = pipeline.build_model
    try:
        # The folder's code may be any other than the one that trained, so it may raise anything.
        module = build(TableInputs.shaped(spec.data), spec.model.options)
        module.load_state_dict(safetensors.torch.load(weights), strict=True)
        predictor = Predictor(spec, module.eval(), scale)
        found = predictor.predict_rows(rows)
    except Exception as error:
        raise PackageError(
            f"package {package.key}: its weights do not fit the module that {pipeline.folder}/model.py builds",
            got=f"{type(error).__name__}: {error}",
            next="check out the code the package was trained with, or train again",
        ) from error
    if found.shape != expected.shape:
        raise PackageError(
            f"package {package.key}: the loaded model answers its probe rows in another shape than the trained one",
            got=found.shape,
            allowed=str(expected.shape),
            next="check out the code the package was trained with, or train again",
        )
    if not np.allclose(found, expected, rtol=_PROBE_TOLERANCE, atol=_PROBE_TOLERANCE, equal_nan=True):
        raise PackageError(
            f"package {package.key}: the loaded model answers its probe rows differently from the trained one",
            got=f"largest difference {float(np.nanmax(np.abs(found - expected))):.4g}",
            allowed=f"{_PROBE_TOLERANCE:g}",
            next="check out the code the package was trained with, or train again",
        )
    return predictor
