"""The adapter to MLflow: runs, model versions, aliases. Nothing is loaded through MLflow: packages are read by us."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millrace.errors import ConfigError, ServiceError, UnknownNameError, nearest
from millrace.faults import fault_point
from millrace.package_files import card_text
from millrace.secrets import redact, redact_value
from millrace.settings import Settings
from millrace.spec import PipelineSpec, TableSpec
from millrace.storage import Artifact
from millrace.texts import VOCABULARY

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models.signature import ModelSignature

CHAMPION = "champion"
CHALLENGER = "challenger"

_PACKAGE_KEY = "millrace.package_key"
_PACKAGE_DIGEST = "millrace.package_digest"
_RUN_KEY = "millrace.run_key"
_MAX_TAG_CHARS = 4000
_MAX_BATCH = 1000
# MLflow's codes for what will be refused however often it is asked.
_FOR_GOOD = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")


@dataclass(frozen=True, slots=True)
class Version:
    """A package registered in MLflow."""

    pipeline: str
    version: str
    package_key: str
    package_digest: str
    aliases: tuple[str, ...]
    created_at: float
    run_id: str
    tags: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"aliases": list(self.aliases)}


class Registry:
    """MLflow's tracking server and model registry, as Millrace uses them."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.mlflow_url

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self._url, registry_uri=self._url)

    def _ask(self, method: str, *given: Any, **named: Any) -> Any:
        """Call a method of MLflow's client, as fault point `mlflow.METHOD`; its errors become ours.

        Raises:
            ConfigError: MLflow refuses it for good.
            ServiceError: MLflow does not answer, or cannot do it now.
        """
        import requests
        from mlflow.exceptions import MlflowException

        try:
            with fault_point(f"mlflow.{method}"):
                return getattr(self._client, method)(*given, **named)
        except (MlflowException, requests.RequestException) as error:
            if getattr(error, "error_code", None) in _FOR_GOOD:
                raise ConfigError(
                    f"MLflow at {self._url} refuses what was asked ({method})",
                    got=str(error),
                    next="correct what it names; if it was removed from MLflow, train again",
                ) from error
            raise ServiceError(
                f"MLflow at {self._url} does not do what was asked", got=str(error), next="look at `millrace status`"
            ) from error

    # Runs -----------------------------------------------------------------------------------------------------

    def run_for(self, pipeline: str, run_key: str, parameters: Mapping[str, Any]) -> str:
        """Id of the MLflow run of the training run `run_key`; made once, found again when it is repeated."""
        experiment = self._ask("get_experiment_by_name", pipeline)
        experiment_id = experiment.experiment_id if experiment else self._ask("create_experiment", pipeline)
        tagged = f"tags.`{_RUN_KEY}` = '{run_key}'"
        found = self._ask("search_runs", [experiment_id], filter_string=tagged, max_results=1)
        if found and found[0].data.params:
            return str(found[0].info.run_id)
        from mlflow.entities import Param

        # A kill between the two leaves a run without parameters.
        named = {"tags": {_RUN_KEY: run_key}, "run_name": run_key[:12]}
        run = found[0] if found else self._ask("create_run", experiment_id, **named)
        given = [Param(name, str(value)) for name, value in redact_value(parameters).items()]
        self._ask("log_batch", run.info.run_id, params=given)
        return str(run.info.run_id)

    def finish_run(self, run_id: str, metrics: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> None:
        """Close a run with its final metrics and every validation's, those not logged on the way included."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = [Metric(name, value, now, 0) for name, value in metrics.items()]
        values += [Metric(name, value, now, int(each["step"])) for each in history for name, value in each.items()]
        for start in range(0, len(values), _MAX_BATCH):
            self._ask("log_batch", run_id, metrics=values[start : start + _MAX_BATCH])
        self._ask("set_terminated", run_id)

    def keep_report(self, version: Version, path: Path) -> str:
        """Keep an HTML report beside the version's run; returns where a person looks at it."""
        self._ask("log_artifact", version.run_id, str(path), "checks")
        experiment = self._ask("get_run", version.run_id).info.experiment_id
        return f"{self._url}/#/experiments/{experiment}/runs/{version.run_id}/artifacts/checks/{path.name}"

    # Versions -------------------------------------------------------------------------------------------------

    def register(
        self,
        package: Artifact,
        spec: PipelineSpec,
        *,
        run_id: str,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        prove: Callable[[], None],
    ) -> Version:
        """The model version of `package`; registered once, found again when the run is repeated.

        MLflow has no compare-and-set: `prove` is called last before the version is made, and of two versions of one
        package, which a run and its zombie can make, the first is meant.
        """
        known = [version for version in self.versions(spec.name) if version.package_digest == package.digest]
        if known:
            return known[-1]
        description = card_text(package)
        with tempfile.TemporaryDirectory() as folder:
            _write_model_folder(Path(folder), package, spec, run_id, metrics)
            self._ask("log_artifacts", run_id, folder, "model")
        self._ensure_model(spec)
        prove()
        made = self._ask(
            "create_model_version",
            spec.name,
            source=f"runs:/{run_id}/model",
            run_id=run_id,
            description=redact(description),
            tags={_PACKAGE_KEY: package.key, _PACKAGE_DIGEST: package.digest}
            | {name: redact(value)[:_MAX_TAG_CHARS] for name, value in tags.items()},
        )
        return _version(made)

    def versions(self, pipeline: str) -> list[Version]:
        """All versions of a pipeline's model, newest first."""
        found = self._ask("search_model_versions", f"name = '{pipeline}'", max_results=1000)
        aliases = self._ask("get_registered_model", pipeline).aliases if found else {}
        return sorted((_version(item, aliases) for item in found), key=lambda version: -int(version.version))

    def version(self, pipeline: str, number: str) -> Version:
        """One version.

        Raises:
            UnknownNameError: it is not registered.
        """
        known = {version.version: version for version in self.versions(pipeline)}
        if number not in known:
            raise UnknownNameError(
                f"pipeline '{pipeline}' has no version {number}",
                allowed=nearest(number, known),
                next=f"list them with `millrace versions {pipeline}`",
            )
        return known[number]

    def by_alias(self, pipeline: str, alias: str) -> Version | None:
        """The version that bears `alias`, or None."""
        return next((version for version in self.versions(pipeline) if alias in version.aliases), None)

    def set_alias(self, version: Version, alias: str) -> None:
        self._ask("set_registered_model_alias", version.pipeline, alias, version.version)

    def _ensure_model(self, spec: PipelineSpec) -> None:
        if not self._ask("search_registered_models", f"name = '{spec.name}'"):
            self._ask("create_registered_model", spec.name, description=spec.description)

    def url(self, version: Version) -> str:
        """Where a person looks at the version."""
        return f"{self._url}/#/models/{version.pipeline}/versions/{version.version}"


def signature(spec: PipelineSpec) -> ModelSignature:
    """The feature contract as an MLflow signature; of a language model, tokens to the logits of the next ones."""
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import ColSpec, Schema, TensorSpec

    if not isinstance(spec.data, TableSpec):
        tokens = TensorSpec(np.dtype(np.int64), (-1, -1), "tokens")
        logits = TensorSpec(np.dtype(np.float32), (-1, -1, VOCABULARY), "logits")
        return ModelSignature(inputs=Schema([tokens]), outputs=Schema([logits]))
    inputs = [
        ColSpec("double" if feature.kind == "numeric" else "string", name, required=not feature.nullable)
        for name, feature in spec.data.features.items()
    ]
    kind = spec.data.label.kind
    outputs = {
        "binary": [ColSpec("double", "probability")],
        "multiclass": [
            ColSpec("string", "class"),
            *(ColSpec("double", f"probability_{c}") for c in spec.data.label.classes),
        ],
        "regression": [ColSpec("double", "value")],
    }[kind]
    return ModelSignature(inputs=Schema([*inputs]), outputs=Schema([*outputs]))


def _write_model_folder(
    folder: Path, package: Artifact, spec: PipelineSpec, run_id: str, metrics: Mapping[str, float]
) -> None:
    """The package's files and an MLmodel that describes them; its flavour has no loader: MLflow cannot run it."""
    from mlflow.models import Model

    # A scratch folder that only this call sees.
    for name in package.entries:
        (folder / name).write_bytes(package.read(name))
    flavour = {"package_key": package.key, "package_digest": package.digest, "weights": "weights.safetensors"}
    model = Model(run_id=run_id, signature=signature(spec), flavors={"millrace": flavour}, metadata=dict(metrics))
    model.save(str(folder / "MLmodel"))


def _version(item: ModelVersion, aliases: Mapping[str, str] | None = None) -> Version:
    names = tuple(sorted(alias for alias, number in (aliases or {}).items() if str(number) == str(item.version)))
    return Version(
        pipeline=item.name,
        version=str(item.version),
        package_key=item.tags.get(_PACKAGE_KEY, ""),
        package_digest=item.tags.get(_PACKAGE_DIGEST, ""),
        aliases=names,
        created_at=item.creation_timestamp / 1000,
        run_id=str(item.run_id),
        tags=dict(item.tags),
    )
