"""What a training run is asked to do, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from millrace.dataset import StagedSet
from millrace.goodput import Attempt
from millrace.ledger import Ledger, Token
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import digest_json
from millrace.window import Window


@dataclass(frozen=True, slots=True)
class Split:
    """The staged window, split by time: what is fitted on, what stops the fitting, what judges."""

    training: Window
    validation: Window
    evaluation: Window

    @classmethod
    def of(cls, pipeline: Pipeline, staged: Window, as_of: datetime) -> Split:
        """The newest days judge, the days before them stop, the rest is fitted on.

        Raises:
            ValueError: nothing is left to fit on.
        """
        spec = pipeline.spec
        judged_from = as_of - timedelta(days=spec.evaluation.window_days)
        stopped_from = judged_from - timedelta(days=spec.training.validation_days)
        lookback = spec.training.lookback_days
        start = staged.start if lookback is None else max(staged.start, judged_from - timedelta(days=lookback))
        return cls(Window(start, stopped_from), Window(stopped_from, judged_from), Window(judged_from, as_of))

    def as_dict(self) -> dict[str, dict[str, str]]:
        return {name: getattr(self, name).as_dict() for name in ("training", "validation", "evaluation")}


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """One training run. Its key names every input, so the same request is the same run.

    `token` proves that who asks holds the pipeline's training slot; without it nothing is published.
    """

    settings: Settings
    pipeline_name: str
    key: str
    staged: StagedSet
    split: Split
    lineage: Mapping[str, Any]
    token: Token

    def prove(self) -> None:
        """Prove, before something is published, that the run still holds the slot.

        Raises:
            FencedError: it does not.
        """
        Ledger(self.settings.ledger).slots.require(self.token)

    @property
    def package_key(self) -> str:
        return f"packages/{self.pipeline_name}/{self.key}"

    @property
    def checkpoint_prefix(self) -> str:
        return f"checkpoints/{self.pipeline_name}/{self.key}"

    @property
    def package_lineage(self) -> dict[str, Any]:
        """What a package says of where it comes from."""
        return {
            **self.lineage,
            "data": self.staged.digest,
            "staged": self.staged.key,
            "run": self.key,
            "split": self.split.as_dict(),
        }

    @property
    def accounts_prefix(self) -> str:
        """Where it is kept what the time of each attempt went to."""
        return f"goodput/{self.pipeline_name}/{self.key}"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The package that a run made, the flow run that made it, and its attempts.

    `seconds` is 0 when the package was there before.
    """

    package_key: str
    package_digest: str
    metrics: Mapping[str, float]
    seconds: float
    trained_by: str
    attempts: tuple[Attempt, ...] = ()


def make_request(
    settings: Settings, pipeline: Pipeline, staged: StagedSet, split: Split, lineage: Mapping[str, Any], token: Token
) -> TrainRequest:
    """The request whose key is made of data, spec sections, code and lock file.

    `lineage` must hold `code` and `lock` digests; who asked for the run is no input and stays out of the key.
    """
    spec = pipeline.spec
    inputs = {
        "data": staged.digest,
        "split": split.as_dict(),
        "spec": {name: getattr(spec, name).model_dump(mode="json") for name in ("data", "model", "training")},
        "pipeline_code": pipeline.code_digest,
        "code": lineage["code"],
        "lock": lineage["lock"],
    }
    return TrainRequest(settings, pipeline.name, digest_json(inputs)[:24], staged, split, lineage, token)
