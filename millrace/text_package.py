"""The package of a language model. Its probe is a few documents, and the bits in which its trainer wrote them down.

It is signed, checked and proven as a table's is (`millrace.package`), and holds the files named here and no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from millrace import weights
from millrace.errors import MillraceError
from millrace.language_model import LanguageModel
from millrace.package_files import (
    CARD,
    PROBE,
    PROBE_TOLERANCE,
    SPEC,
    WEIGHTS,
    fill,
    parsed,
    read_files,
    unfit,
    unproven,
)
from millrace.pipeline import Pipeline
from millrace.spec import PipelineSpec
from millrace.storage import Artifact, ObjectStore
from millrace.texts import END, VOCABULARY, TextInputs, Tokens

if TYPE_CHECKING:
    pass

_FILES = {WEIGHTS, SPEC, PROBE, CARD}

_PROBE_DOCUMENTS = 8
_MAX_PROBE_DOCUMENTS = 100
_MAX_PROBE_BYTES = 4096

_Byte = Annotated[int, Field(ge=0, lt=VOCABULARY)]


class _Probe(BaseModel):
    """probe.json: the tokens of documents, and the bits that each took, as a mean over its tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    documents: list[Annotated[list[_Byte], Field(min_length=1, max_length=_MAX_PROBE_BYTES + 1)]] = Field(
        min_length=1, max_length=_MAX_PROBE_DOCUMENTS
    )
    bits: list[FiniteFloat]


def text_inputs(spec: PipelineSpec) -> TextInputs:
    """What the pipeline's model learns of its inputs."""
    return TextInputs(VOCABULARY, spec.texts.sequence_length)


def publish_text_package(
    store: ObjectStore,
    key: str,
    *,
    model: LanguageModel,
    examples: Sequence[Tokens],
    card: str,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Artifact:
    """Commit the package of a trained language model under `key`.

    The begins of the first `examples`, documents that it was not fitted on, become its probe.
    """
    import safetensors.torch

    probe = [_begin(document) for document in examples[:_PROBE_DOCUMENTS]]
    told = {"documents": [document.tolist() for document in probe], "bits": _bits(model, probe).tolist()}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.module.state_dict().items()}
    return store.publish(
        key,
        {
            WEIGHTS: safetensors.torch.save(state),
            SPEC: model.spec.model_dump_json(indent=1).encode(),
            PROBE: json.dumps(told).encode(),
            CARD: card.encode(),
        },
        summary={
            "pipeline": model.spec.name,
            "metrics": {name: value for name, value in metrics.items() if np.isfinite(value)},
        },
        lineage=lineage,
    )


def load_language_model(package: Artifact, pipeline: Pipeline) -> LanguageModel:
    """The package's model, built by the pipeline folder's code and proven on its probe.

    Raises:
        PackageError: it is another pipeline's, or the folder's code does not fit the weights, or does not answer as the
            trainer did.
        ConfigError: the package is of a table's model.
        ArtifactError: a file is not of its kind.
        DigestError: stored bytes differ from the manifest; nothing was parsed.
        SpecError: its spec is not valid.
    """
    spec, files = read_files(package, pipeline, all_of=_FILES, wanted=(WEIGHTS, PROBE))
    tensors = weights.load(files[WEIGHTS], f"{package.key}/{WEIGHTS}")
    probe = parsed(package, files, PROBE, _Probe)
    build = pipeline.build_model
    try:
        model = LanguageModel(spec, fill(build(text_inputs(spec), spec.model.options), tensors))
        found = _bits(model, [np.array(document, np.uint8) for document in probe.documents])
    except MillraceError:
        raise
    except Exception as error:
        raise unfit(package, pipeline, error) from error
    expected = np.asarray(probe.bits)
    if expected.shape != found.shape or not np.allclose(found, expected, rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE):
        same = expected.shape == found.shape
        raise unproven(
            package,
            f"largest difference {float(np.max(np.abs(found - expected))):.4g} bits a token" if same else found.shape,
            f"{PROBE_TOLERANCE:g}" if same else str(expected.shape),
        )
    return model


def _begin(document: Tokens) -> Tokens:
    """A document's first bytes, ended."""
    return document if len(document) <= _MAX_PROBE_BYTES else np.append(document[:_MAX_PROBE_BYTES], np.uint8(END))


def _bits(model: LanguageModel, documents: Sequence[Tokens]) -> NDArray[np.float64]:
    """Bits a token of each document."""
    return model.bits(documents) / np.array([len(document) for document in documents], np.float64)
