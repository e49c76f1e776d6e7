"""The kinds of data that a training can be of: how each is prepared, opened, and made into a package."""

from __future__ import annotations

from dataclasses import dataclass

from millrace.encoding import TableInputs
from millrace.package import LabelScale
from millrace.pipeline import Pipeline
from millrace.spec import PipelineSpec, TableSpec
from millrace.storage import ObjectStore
from millrace.text_package import text_inputs
from ray_jobs.cluster import pipeline_on_worker
from ray_jobs.train.loop import Fitted
from ray_jobs.train.problem import Inputs, Problem
from ray_jobs.train.request import TrainRequest
from ray_jobs.train.table_package import publish_table
from ray_jobs.train.table_problem import open_table, prepare_table
from ray_jobs.train.text_problem import open_text, prepare_text, publish_text


@dataclass(frozen=True)
class Opened:
    """A problem, and what the package says beside the weights: of a table, how its target was scaled."""

    problem: Problem
    scale: LabelScale | None = None


def shaped_inputs(spec: PipelineSpec) -> Inputs:
    """What a module is built from, before there is any data: of the right shape, without statistics."""
    return TableInputs.shaped(spec.data) if isinstance(spec.data, TableSpec) else text_inputs(spec)


def prepare(request: TrainRequest) -> None:
    """Encode what the request trains on; nothing where it was done before.

    Raises:
        DataError: there is too little of it.
    """
    spec = pipeline_on_worker(request.settings, request.pipeline_name).spec
    (prepare_table if spec.data.kind == "table" else prepare_text)(request)


def open_problem(request: TrainRequest, pipeline: Pipeline, store: ObjectStore) -> Opened:
    """What `prepare` made.

    Raises:
        ArtifactError: it did not, or it is gone.
    """
    if pipeline.spec.data.kind == "table":
        return Opened(*open_table(request, pipeline, store))
    return Opened(open_text(request, pipeline, store))


def publish(request: TrainRequest, pipeline: Pipeline, opened: Opened, fitted: Fitted) -> None:
    """Commit the package of the best weights.

    Raises:
        FencedError: the run no longer holds the slot.
    """
    if opened.scale is not None:
        publish_table(request, pipeline, opened.problem, opened.scale, fitted)
    else:
        publish_text(request, pipeline, opened.problem, fitted.weights, fitted.position)
