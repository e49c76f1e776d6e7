"""A model version in a replica: loaded from its package, proven on its probe rows, warmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from millrace.errors import DigestError, MillraceError, PackageError
from millrace.open_inference import AnswerEncoder, InferContract
from millrace.package import Predictor, headline, load_predictor
from millrace.pipeline import Pipeline
from millrace.requests import RequestContract
from millrace.spec import TableSpec
from millrace.storage import ObjectStore
from ray_jobs.serve.batching import Batcher
from ray_jobs.serve.cache import AnswerCache

_WARM_ROWS = (1, 2, 16, 256)


@dataclass(frozen=True, slots=True)
class Target:
    """Which version is to be served, and the token of who says so; as a dict it is the deployment's `user_config`.

    The token is no part of what is served: two targets of the same package are equal.
    """

    version: str
    package_key: str
    package_digest: str
    token: int = field(default=0, compare=False)

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> Self:
        return cls(config["version"], config["package_key"], config["package_digest"], int(config.get("token", "0")))

    def as_config(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Answers:
    """A model's answers to one request: for the caller and for the log."""

    predictions: list[dict[str, Any]]
    headline: list[Any]
    probabilities: dict[str, list[float]]


@dataclass(frozen=True)
class LoadedVersion:
    """A version that may answer."""

    target: Target
    predictor: Predictor
    contract: RequestContract
    infer_contract: InferContract
    infer_answers: AnswerEncoder
    batcher: Batcher

    @classmethod
    def of(cls, target: Target, predictor: Predictor) -> Self:
        spec = predictor.spec
        latency, kept = spec.serving.latency_target_ms, spec.serving.cache
        batcher = Batcher(
            predictor.predict,
            None if latency is None else latency / 1e3,
            None if kept is None else AnswerCache(int(kept.max_mb * 1e6), kept.ttl_seconds, kept.per_customer),
        )
        return cls(target, predictor, RequestContract(spec), InferContract(spec), AnswerEncoder(spec), batcher)

    @property
    def data(self) -> TableSpec:
        return self.predictor.spec.table

    def warm(self) -> None:
        """Answer batches of several sizes, to be fast from the first request on, and to know what they cost.

        Raises:
            PackageError: the model answers with something that is no number.
        """
        for rows in _WARM_ROWS:
            batch: dict[str, NDArray[Any]] = {
                "numeric": np.zeros((rows, len(self.data.numeric)), np.float32),
                "categorical": np.zeros((rows, len(self.data.categorical)), np.int64),
            }
            self.told(self.predictor.predict(batch))
            began = perf_counter()
            self.predictor.predict(batch)
            self.batcher.cost.observe(rows, perf_counter() - began)

    def told(self, answers: NDArray[np.float32]) -> Answers:
        """What callers and the log are told of the model's answers.

        Raises:
            PackageError: the model answers with something that is no number.
        """
        if not np.isfinite(answers).all():
            raise PackageError(
                f"version {self.target.version} answers with NaN or infinity", next="roll back to an older version"
            )
        label = self.data.label
        if label.kind != "multiclass":
            key = "probability" if label.kind == "binary" else "value"
            values = answers.tolist()
            return Answers([{key: value} for value in values], values, {})
        best = headline(answers, self.predictor.spec).tolist()
        rows = [dict(zip(label.classes, row, strict=True)) for row in answers.tolist()]
        columns = dict(zip(label.classes, answers.T.tolist(), strict=True))
        predictions = [{"class": c, "probabilities": row} for c, row in zip(best, rows, strict=True)]
        return Answers(predictions, best, columns)


def load_version(target: Target, store: ObjectStore, pipeline: Pipeline) -> LoadedVersion:
    """The version `target` names, ready to answer at full speed.

    Raises:
        ArtifactError: the package is absent, or one of its files is not of its kind.
        SignatureError: nobody who is trusted made it; nothing was parsed.
        DigestError: the package is another one than `target` names, or its bytes are damaged.
        PackageError: it does not answer as its trainer did.
        ConfigError: the pipeline folder's code cannot be loaded.
    """
    import torch

    # Replicas scale by processes; more threads in each would only fight over the same cores.
    torch.set_num_threads(1)
    package = store.get(target.package_key)
    if package.digest != target.package_digest:
        raise other_package(target, package.digest)
    try:
        predictor = load_predictor(package, pipeline)
    except MillraceError:
        raise
    except Exception as error:
        raise PackageError(
            f"package {package.key} cannot be loaded",
            got=f"{type(error).__name__}: {error}",
            next=f"correct {pipeline.folder}/model.py, or train again",
        ) from error
    loaded = LoadedVersion.of(target, predictor)
    loaded.warm()
    return loaded


def other_package(target: Target, found: str) -> DigestError:
    """The error for a package whose digest is not the one that was to be served."""
    return DigestError(
        f"package {target.package_key} is not the one registered as version {target.version}",
        got=found,
        allowed=target.package_digest,
        next="register the package again",
    )
