"""`millrace export`: a registered version for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace import export
from millrace.encoding import TableInputs
from millrace.errors import ConflictError, DigestError
from millrace.package import load_predictor
from millrace.pipeline import Pipeline, load_pipeline
from millrace.settings import Settings
from millrace.spec import TableSpec
from millrace.storage import Artifact, ObjectStore
from millrace.text_package import load_language_model, text_inputs
from tasks.registry import CHAMPION, Registry, Version

if TYPE_CHECKING:
    from millrace.export import Exported


def export_version(settings: Settings, name: str, folder: Path, number: str | None) -> dict[str, Any]:
    """Write version `number`, or the champion, into `folder`; proven on its probe first, as for serving.

    Raises:
        ConflictError: there is no champion.
        ConfigError: the folder holds something, or the pipeline does not say what its model is called elsewhere.
        UnknownNameError: there is no such version.
        DigestError: the package is not the one that was registered.
        PackageError: it cannot be loaded.
    """
    pipeline = load_pipeline(name, settings.pipelines)
    version = _chosen(settings, name, number)
    package = ObjectStore.of(settings).get(version.package_key)
    if package.digest != version.package_digest:
        raise DigestError(
            f"package {package.key} is not the one registered as version {version.version}",
            got=package.digest,
            allowed=version.package_digest,
            next="find out who changed it; train again",
        )
    files = export.write(_exported(package, pipeline), folder)
    return {
        "pipeline": name,
        "version": version.version,
        "package": version.package_digest,
        "files": {str(path): path.stat().st_size for path in files},
    }


def _chosen(settings: Settings, name: str, number: str | None) -> Version:
    registry = Registry(settings)
    if number is not None:
        return registry.version(name, number)
    champion = registry.by_alias(name, CHAMPION)
    if champion is None:
        raise ConflictError(f"pipeline '{name}' has no champion", next=f"train one with `millrace run {name}`")
    return champion


def _exported(package: Artifact, pipeline: Pipeline) -> Exported:
    """The package's model, of the sizes that it was trained with, as the pipeline's code calls it now."""
    if isinstance(pipeline.spec.data, TableSpec):
        predictor = load_predictor(package, pipeline)
        inputs = TableInputs.shaped(predictor.spec.table)
        return pipeline.exported(inputs, predictor.spec.model.options, predictor.module.state_dict())
    model = load_language_model(package, pipeline)
    return pipeline.exported(text_inputs(model.spec), model.spec.model.options, model.module.state_dict())
