"""Judge a challenger on the newest labelled rows, or documents, on the cluster."""

from __future__ import annotations

from dataclasses import replace

from millrace.dataset import StagedSet
from millrace.encoding import labels
from millrace.gate import Evaluation, baseline_answers, compare
from millrace.package import load_predictor
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.spec import PipelineSpec, TextSpec
from ray_jobs.cluster import object_store, pipeline_on_worker, run_all
from ray_jobs.evaluate.texts import judge_texts
from ray_jobs.train.data import read_labelled
from ray_jobs.train.request import Split


def evaluate(
    settings: Settings,
    pipeline: Pipeline,
    staged: StagedSet,
    split: Split,
    *,
    challenger_key: str,
    champion: tuple[str, str] | None,
) -> Evaluation:
    """Challenger, champion and the trivial baseline on the rows, or documents, of the evaluation window.

    Args:
        challenger_key: key of the challenger's package.
        champion: version and package key of the champion, where one serves.

    Raises:
        DataError: the window has no labelled rows, or documents.
        PackageError: a package cannot be loaded.
    """
    spec = pipeline.spec
    # A table's model is asked on the CPU, as it is when it serves; a language model would take too long there.
    num_gpus = 1 if spec.training.use_gpu and isinstance(spec.data, TextSpec) else 0
    given = (settings, spec, staged, split, challenger_key, champion)
    return run_all(settings, judge, [given], num_gpus=num_gpus)[0]


def judge(
    settings: Settings,
    spec: PipelineSpec,
    staged: StagedSet,
    split: Split,
    challenger_key: str,
    champion: tuple[str, str] | None,
) -> Evaluation:
    """The task itself: one process that loads the packages and answers the same rows with each.

    The rule is the flow's, not the one in the file as it is by now: what was accepted is what judges.
    """
    pipeline, store = replace(pipeline_on_worker(settings, spec.name), spec=spec), object_store(settings)
    if isinstance(spec.data, TextSpec):
        return judge_texts(store, pipeline, staged, split, challenger_key, champion)
    data = spec.data
    rows = read_labelled(store, staged, data, split.evaluation)
    fitted_on = labels(read_labelled(store, staged, data, split.training, features=()), data)
    answers = {
        "challenger": load_predictor(store.get(challenger_key), pipeline).predict_rows(rows),
        "baseline": baseline_answers(data.label, fitted_on, len(rows)),
    }
    if champion is not None:
        answers["champion"] = load_predictor(store.get(champion[1]), pipeline).predict_rows(rows)
    return compare(spec, split.evaluation, rows, labels(rows, data), answers, None if champion is None else champion[0])
