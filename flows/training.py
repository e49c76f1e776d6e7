"""Train a challenger and let it serve when it is better: stage, train, evaluate, register, roll out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow

from tasks.incidents import answering
from tasks.outcome import UNCHANGED, finish, serving_version
from tasks.rollout import PROMOTED, REFUSED, promote_version, refuse_version, serve_again
from tasks.run import moment, pipeline_slot, start_run
from tasks.training import (
    evaluate_model,
    register_model,
    split_by_time,
    stage_data,
    train_model,
    training_request,
)


@flow(name="training", persist_result=False)
def training(pipeline: str, as_of: datetime | None = None, incident: str | None = None) -> dict[str, Any]:
    """Train on all that was known at a moment, judge against the serving version, promote what is better.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
        as_of: The moment whose knowledge is used; leave empty for now.
        incident: Key of the incident this training answers; leave empty when a person starts it.
    """
    run = start_run(pipeline)
    with answering(run, incident), pipeline_slot(run):
        staged = stage_data(run, moment(as_of))
        split = split_by_time(run, staged)
        request = training_request(run, staged, split, incident)
        result = train_model(run, request)
        if (champion := serving_version(run, result)) is not None:
            serve_again(run, champion)
            return finish(run, UNCHANGED, result, champion, incident)
        evaluation = evaluate_model(run, request, result)
        version = register_model(run, request, result, evaluation)
        if evaluation.verdict.passed:
            promote_version(run, version, evaluation)
            return finish(run, PROMOTED, result, version, incident, evaluation)
        refuse_version(run, version, evaluation)
        return finish(run, REFUSED, result, version, incident, evaluation)
