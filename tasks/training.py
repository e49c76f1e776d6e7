"""The steps of a training: stage, train, evaluate, register."""

from __future__ import annotations

from millrace.dataset import StagedSet
from millrace.errors import DataError, QuarantineError
from millrace.gate import Evaluation, load_evaluation, publish_evaluation
from millrace.goodput import Goodput
from millrace.ledger import REGISTERED, Fact
from millrace.pipeline import Pipeline
from millrace.provenance import code_digest, commit, evaluation_code_digest, lock_digest
from millrace.storage import digest_json
from millrace.verdict import Verdict
from millrace.window import Window
from ray_jobs.evaluate.judge import evaluate
from ray_jobs.stage.shards import source_extent, stage
from ray_jobs.train.request import Split, TrainRequest, TrainResult, make_request
from ray_jobs.train.run import find_result, train
from tasks import artifacts
from tasks.champion import version_to_beat
from tasks.registry import CHALLENGER, Registry, Version
from tasks.round_metrics import round_metrics
from tasks.run import Run, step

EVALUATED = "evaluated"
FITTED = "fitted"


@step
def stage_data(run: Run) -> StagedSet:
    """Stage everything the source has up to the run's `as_of`.

    Raises:
        QuarantineError: more rows break the feature contract than the spec allows.
        DataError: the source has nothing before it.
    """
    as_of = run.as_of
    extent = source_extent(run.pipeline)
    if as_of <= extent.start:
        raise DataError(
            f"pipeline '{run.pipeline.name}' has no data before {as_of:%Y-%m-%d}",
            got=f"as_of {as_of.isoformat()}",
            allowed=f"a time after {extent.start.isoformat()}",
            next="give a later as_of",
        )
    staged, verdict = stage(run.settings, run.pipeline, Window(extent.start, min(as_of, extent.end)), as_of)
    artifacts.staged_set(staged, verdict)
    require(verdict, staged)
    return staged


def require(verdict: Verdict, staged: StagedSet) -> None:
    """Stop the flow when too much of the data is bad."""
    if not verdict.passed:
        raise QuarantineError(
            f"staging of '{staged.pipeline}' is refused: {verdict.reasons[0]}",
            got="; ".join(verdict.reasons[1:]) or None,
            next="look at the quarantine files beside the shards; correct the source, or the contract in pipeline.yaml",
        )


def split_by_time(run: Run, staged: StagedSet) -> Split:
    """Training, validation and evaluation windows, none of which sees a later one.

    Raises:
        DataError: the staged window is too short for them.
    """
    spec = run.pipeline.spec
    try:
        return Split.of(run.pipeline, staged.window, staged.window.end)
    except ValueError:
        raise DataError(
            f"{staged.window} is too short to fit, stop and judge on",
            allowed=f"more than evaluation.window_days ({spec.evaluation.window_days:g}) and "
            f"training.validation_days ({spec.training.validation_days:g}) together",
            next="give a later as_of, or shorten the two",
        ) from None


def training_request(run: Run, staged: StagedSet, split: Split, incident: str | None) -> TrainRequest:
    lineage = {"code": code_digest(), "lock": lock_digest(), "commit": commit(), "incident": incident or ""}
    return make_request(run.settings, run.pipeline, staged, split, lineage, run.proof)


@step
def train_model(run: Run, request: TrainRequest) -> TrainResult:
    """Fit the model on the cluster; an identical earlier run's package is taken as it is.

    Raises:
        TrainingError: the workers failed more often than the spec allows.
    """
    result = find_result(request)
    if result is None:
        result = train(request, run.pipeline, round_metrics(run.settings, open_mlflow_run(run, request)))
    if result.trained_by == run.id and run.recorded(FITTED) is None:
        _report_training(run, request, result)
    return result


def _report_training(run: Run, request: TrainRequest, result: TrainResult) -> None:
    """Tell MLflow, the Prefect UI and the ledger of a training that this run did, perhaps before it was killed."""
    history = run.store.get(result.package_key).lineage["history"]
    spec, goodput = run.pipeline.spec.training, Goodput.of(result.attempts)
    costs = run.pipeline.spec.costs
    per_hour = spec.cpus_per_worker * costs.cpu_hour + (costs.gpu_hour if spec.use_gpu else 0.0)
    measured = dict(result.metrics) | (goodput.metrics(per_hour) if goodput.attempts else {})
    Registry(run.settings).finish_run(open_mlflow_run(run, request), measured, history)
    artifacts.training_curves(run.pipeline.name, history, int(result.metrics["best_step"]))
    if goodput.attempts:
        artifacts.goodput(run.pipeline.name, goodput, per_hour, costs.currency)
    spent = goodput.worker_seconds or result.seconds * spec.num_workers
    run.spend("train", spent, spec.cpus_per_worker, 1 if spec.use_gpu else 0)
    run.record(FITTED, {"package": result.package_digest})


def open_mlflow_run(run: Run, request: TrainRequest) -> str:
    """The MLflow run of this training run, with the spec's parameters."""
    spec = run.pipeline.spec
    parameters = {
        f"{section}.{name}": value
        for section in ("model", "training")
        for name, value in getattr(spec, section).model_dump(mode="json").items()
    }
    windows = {name: f"{part['start']} to {part['end']}" for name, part in request.split.as_dict().items()}
    return Registry(run.settings).run_for(
        spec.name, request.key, parameters | windows | {"data": request.staged.digest}
    )


@step
def evaluate_model(run: Run, request: TrainRequest, result: TrainResult) -> Evaluation:
    """Judge the challenger against the champion and a trivial baseline on the newest labelled rows.

    What has been judged is not judged again: not by a run that goes on, and not by another with the same inputs.
    """
    champion = version_to_beat(run)
    if champion is not None and champion.package_digest == result.package_digest:
        # Promoted by this very run before it was killed: it was judged against the version before.
        key = str(run.ledger.entries(run.pipeline.name, EVALUATED, subject=run.id)[-1].detail["evaluation"])
        return load_evaluation(run.store.get(key))
    key = evaluation_key(run.pipeline, request, result, champion)
    known = run.store.find(key)
    if known is None:
        evaluation = evaluate(
            run.settings,
            run.pipeline,
            request.staged,
            request.split,
            challenger_key=result.package_key,
            champion=None if champion is None else (champion.version, champion.package_key),
        )
        artifacts.evaluation(run.pipeline.name, evaluation)
        known = publish_evaluation(run.store, key, evaluation)
    detail = {"evaluation": key, "champion": None if champion is None else champion.version}
    run.ledger.decide(run.pipeline.name, EVALUATED, run.id, detail, actor=run.id)
    return load_evaluation(known)


def evaluation_key(pipeline: Pipeline, request: TrainRequest, result: TrainResult, champion: Version | None) -> str:
    """A name made of all that an evaluation depends on."""
    spec = pipeline.spec
    inputs = {
        "challenger": result.package_digest,
        "champion": None if champion is None else [champion.version, champion.package_digest],
        "data": request.staged.digest,
        "split": request.split.as_dict(),
        "spec": {name: getattr(spec, name).model_dump(mode="json") for name in ("data", "evaluation")},
        "seed": spec.training.seed,
        "pipeline_code": pipeline.code_digest,
        "code": [request.lineage["code"], evaluation_code_digest()],
        "lock": request.lineage["lock"],
    }
    return f"evaluations/{pipeline.name}/{digest_json(inputs)[:24]}"


@step
def register_model(run: Run, request: TrainRequest, result: TrainResult, evaluation: Evaluation) -> Version:
    """Register the package as the challenger, its verdict beside it."""
    registry, name = Registry(run.settings), run.pipeline.name
    known = run.ledger.registered(name, result.package_digest)
    if known is not None:
        version = registry.version(name, known)
    else:
        version = _register(run, request, result, evaluation)
        detail = {"package": result.package_digest}
        fact = Fact(name, REGISTERED, version.version, detail, run.id, once=result.package_digest)
        run.ledger.append(fact, token=run.proof)
    if CHALLENGER not in version.aliases:
        run.prove()
        registry.set_alias(version, CHALLENGER)
    return version


def _register(run: Run, request: TrainRequest, result: TrainResult, evaluation: Evaluation) -> Version:
    challenger = {f"evaluation_{name}": value for name, value in evaluation.metrics["challenger"].items()}
    return Registry(run.settings).register(
        run.store.get(result.package_key),
        run.pipeline.spec,
        run_id=open_mlflow_run(run, request),
        tags={
            "millrace.verdict": evaluation.verdict.summary,
            "millrace.data_digest": request.staged.digest,
            "millrace.commit": str(request.lineage["commit"]),
            "millrace.incident": str(request.lineage["incident"]),
            "millrace.flow_run": result.trained_by or run.id,
        },
        metrics=dict(result.metrics) | challenger,
        prove=run.prove,
    )
