"""What the packages of all kinds of models share: names of files, and how those are read before anything is built."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from millrace import strict_json
from millrace.errors import PackageError
from millrace.pipeline import Pipeline
from millrace.spec import PipelineSpec
from millrace.spec.load import parse_spec
from millrace.storage import Artifact

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights.safetensors"
SPEC = "spec.json"
PROBE = "probe.json"
CARD = "model_card.md"

#: How far a loaded model may be off what the trainer got for the probe, relative and absolute.
PROBE_TOLERANCE = 1e-3

_Document = TypeVar("_Document", bound=BaseModel)


def package_spec(package: Artifact) -> PipelineSpec:
    """The spec that the package's model was trained by.

    Raises:
        ArtifactError: it is no JSON.
        SpecError: it is no spec.
    """
    return _parse_spec(package, package.read(SPEC))


def card_text(package: Artifact) -> str:
    """The model card, Markdown.

    Raises:
        PackageError: it is no text.
    """
    try:
        return package.read(CARD).decode()
    except UnicodeDecodeError as error:
        raise PackageError(f"package {package.key}: '{CARD}' is no text", got=str(error), next="train again") from error


def read_files(
    package: Artifact, pipeline: Pipeline, *, all_of: Collection[str], wanted: Sequence[str]
) -> tuple[PipelineSpec, dict[str, bytes]]:
    """The package's spec and the files `wanted`, all of them checked before the first is parsed.

    Raises:
        PackageError: it has other files than `all_of`, or is another pipeline's.
        ArtifactError: a file is not of its kind.
        DigestError: stored bytes differ from the manifest; nothing was parsed.
        SpecError: its spec is not valid.
    """
    if set(package.entries) != set(all_of):
        raise PackageError(
            f"package {package.key} has other files than a package has",
            got=", ".join(sorted(set(package.entries) ^ set(all_of))),
            allowed=", ".join(sorted(all_of)),
            next="train again",
        )
    files = {name: package.read(name) for name in (SPEC, *wanted)}
    spec = _parse_spec(package, files[SPEC])
    if spec.name != pipeline.name:
        raise PackageError(
            f"package {package.key} is another pipeline's", got=spec.name, allowed=pipeline.name, next="train again"
        )
    return spec, files


def parsed(package: Artifact, files: Mapping[str, bytes], name: str, kind: type[_Document]) -> _Document:
    """The JSON file `name` as a `kind`.

    Raises:
        PackageError, ArtifactError: it is none.
    """
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


def fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The module with these weights, ready to answer.

    Raises:
        ValueError, RuntimeError: they are not the module's in name, shape or type.
    """
    # torch copies a tensor of any type into a parameter of another, whatever is lost.
    for name, own in module.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise ValueError(f"{name} is {tensors[name].dtype}, the module's is {own.dtype}")
    module.load_state_dict(tensors, strict=True)
    return module.eval()


def unfit(package: Artifact, pipeline: Pipeline, error: Exception) -> PackageError:
    """What to raise when the folder's code, perhaps another than the one that trained, does not take the weights."""
    return PackageError(
        f"package {package.key}: its weights do not fit the module that {pipeline.folder}/model.py builds",
        got=f"{type(error).__name__}: {error}",
        next="check out the code the package was trained with, or train again",
    )


def unproven(package: Artifact, got: object, allowed: str) -> PackageError:
    """What to raise when the loaded model does not give the trainer's answers."""
    return PackageError(
        f"package {package.key}: the loaded model answers its probe rows differently from the trained one",
        got=got,
        allowed=allowed,
        next="check out the code the package was trained with, or train again",
    )


def _parse_spec(package: Artifact, content: bytes) -> PipelineSpec:
    where = f"{package.key}/{SPEC}"
    return parse_spec(strict_json.parse(content, where), where)
