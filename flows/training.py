"""Train a challenger and promote it when it is better: stage, train, evaluate, register, roll out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow

from tasks.approval import approved_evaluation, approved_thresholds, refused_training
from tasks.incidents import answering
from tasks.outcome import UNCHANGED, finish, finish_untrained, finished, known_champion
from tasks.requester import requester
from tasks.run import Run, open_run
from tasks.settling import keep, settle
from tasks.slots import holding
from tasks.training import (
    evaluate_model,
    register_model,
    split_by_time,
    stage_data,
    train_model,
    training_request,
)


@flow(name="training", persist_result=False)
def training(
    pipeline: str, as_of: datetime | None = None, incident: str | None = None, requested_by: str | None = None
) -> dict[str, Any]:
    """Train on all that was known at a moment, judge against the serving version, promote what is better.

    Killed anywhere and started again, it goes on where it was: each step finds what is done. Where the spec asks for an
    approval it is suspended until there is an answer, and begins anew.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
        as_of: The moment whose knowledge is used; leave empty for now.
        incident: Key of the incident this training answers; leave empty when a person starts it.
        requested_by: Who asks for it, `person:NAME`; he may not approve it himself.
    """
    asked_by = requester(incident, requested_by)
    with open_run("training", pipeline, as_of, asked_by) as opened, answering(opened, incident):
        if (record := finished(opened)) is not None:
            # Killed while it gave its slot back: it takes it again, to give it back.
            with holding(opened, "training"):
                return dict(record)
        accepted = approved_thresholds(opened)
        if (refusal := refused_training(accepted, incident)) is not None:
            return finish_untrained(accepted, refusal, incident)
        return _train(accepted, incident)


def _train(accepted: Run, incident: str | None) -> dict[str, Any]:
    with holding(accepted, "training") as run:
        staged = stage_data(run)
        request = training_request(run, staged, split_by_time(run, staged), incident)
        result = train_model(run, request)
        if (champion := known_champion(run, result)) is not None:
            keep(run, champion)
            return finish(run, UNCHANGED, result, champion, incident)
        outcome = None
        while outcome is None:
            evaluation = evaluate_model(run, request, result)
            version = register_model(run, request, result, evaluation)
            evaluation = approved_evaluation(run, version, evaluation)
            outcome = settle(run, version, evaluation)
        return finish(run, outcome, result, version, incident, evaluation)
