"""Answers that need no flow: is a pipeline sound, which versions has it, and a new one from a table."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from millrace.contract import check
from millrace.encoding import TableInputs, encode
from millrace.errors import DataError, MillraceError, PackageError
from millrace.ledger import Entry, Ledger
from millrace.pipeline import Pipeline, load_pipeline
from millrace.rollouts import BEGUN, ENDED
from millrace.settings import Settings
from millrace.spec import TableSpec
from millrace.window import Window, period_start

if TYPE_CHECKING:
    import pandas as pd

_TRIED_ROWS = 64


def validate_pipeline(settings: Settings, name: str) -> dict[str, Any]:
    """The spec, the code and the source of a pipeline, each tried; the first that is wrong raises.

    Raises:
        SpecError: pipeline.yaml is broken.
        ConfigError: its code does not load, or its training's layout cannot work.
        SourceError: its source does not answer with the table that the spec describes.
        PackageError: its module does not take the spec's inputs.
    """
    from ray_jobs.stage.shards import read_source, source_extent
    from ray_jobs.train.run import require_layout

    pipeline = load_pipeline(name, settings.pipelines)
    extent = source_extent(pipeline)
    # The period of the last moment: an extent may end where a period does.
    last = period_start(extent.end - timedelta(microseconds=1), pipeline.spec.data.partition)
    window = Window(max(extent.start, last), extent.end)
    rows = read_source(pipeline, window, extent.end)
    if rows.empty:
        raise DataError(f"the source of '{name}' has no rows in {window}", next="correct its extent()")
    checked = check(rows, pipeline.spec.data, window)
    tried = checked.good.head(_TRIED_ROWS)
    data = pipeline.spec.data
    if isinstance(data, TableSpec):
        parameters = _try_model(pipeline, tried, data) if len(tried) else 0
        learns = {"features": {"numeric": len(data.numeric), "categorical": len(data.categorical)}}
    else:
        parameters = _try_language_model(pipeline)
        learns = {"texts": {"sequence_length": data.sequence_length, "num_bytes": _num_bytes(checked.good[data.text])}}
    require_layout(pipeline)
    reasons = checked.quarantined["quarantine_reason"].value_counts().head(5).to_dict()
    return {
        "pipeline": name,
        "folder": str(pipeline.folder),
        "extent": extent.as_dict(),
        "sampled_window": window.as_dict(),
        "rows": checked.num_rows,
        "unlabelled": checked.unlabelled,
        "quarantined": len(checked.quarantined),
        "quarantine_reasons": {str(reason): int(count) for reason, count in reasons.items()},
        **learns,
        "model_parameters": parameters,
    }


def _try_model(pipeline: Pipeline, rows: Any, data: TableSpec) -> int:
    """Build the module and give it a few rows; its number of parameters."""
    import torch

    try:
        module = pipeline.build_model(TableInputs.fit(rows, data), pipeline.spec.model.options).eval()
        with torch.inference_mode():
            logits = module({name: torch.from_numpy(array) for name, array in encode(rows, data).items()})
    except Exception as error:
        raise PackageError(
            f"pipeline '{pipeline.name}': its module does not take a batch of the spec's features",
            got=f"{type(error).__name__}: {error}",
            next=f"correct {pipeline.folder}/model.py or model.options",
        ) from error
    _require_shape(pipeline, tuple(logits.shape), (len(rows), data.label.outputs), "rows, outputs")
    return sum(parameter.numel() for parameter in module.parameters())


def _try_language_model(pipeline: Pipeline) -> int:
    """Build the module without room for its weights and give it tokens; its number of parameters."""
    import torch

    from millrace.text_package import text_inputs

    inputs = text_inputs(pipeline.spec)
    # A model of billions of parameters is tried as quickly as a small one.
    with torch.device("meta"):
        tokens = torch.zeros(2, inputs.sequence_length, dtype=torch.int64)
        try:
            module = pipeline.build_model(inputs, pipeline.spec.model.options).eval()
            with torch.inference_mode():
                logits = module(tokens)
        except MillraceError:
            raise
        except Exception as error:
            raise PackageError(
                f"pipeline '{pipeline.name}': its module does not take sequences of tokens",
                got=f"{type(error).__name__}: {error}",
                next=f"correct {pipeline.folder}/model.py or model.options",
            ) from error
    expected = (*tokens.shape, inputs.vocabulary)
    _require_shape(pipeline, tuple(logits.shape), expected, "rows, length, vocabulary")
    pipeline.parallel_plan(inputs)
    if pipeline.spec.model.export is not None:
        pipeline.exported(inputs, pipeline.spec.model.options, module.state_dict())
    return sum(parameter.numel() for parameter in module.parameters())


def _require_shape(pipeline: Pipeline, found: tuple[int, ...], expected: tuple[int, ...], axes: str) -> None:
    if found != expected:
        raise PackageError(
            f"pipeline '{pipeline.name}': its module answers with the wrong shape",
            got=found,
            allowed=f"{expected}: {axes}",
            next=f"correct {pipeline.folder}/model.py",
        )


def _num_bytes(documents: pd.Series) -> int:
    return sum(len(document.encode()) for document in documents)


def list_versions(settings: Settings, name: str) -> dict[str, Any]:
    """The model's versions, newest first."""
    load_pipeline(name, settings.pipelines)
    from tasks.registry import Registry

    kinds = ("promoted", "refused", BEGUN, ENDED)
    decided = {entry.subject: _decision(entry) for entry in Ledger(settings.ledger).entries(name, *kinds)}
    return {
        "pipeline": name,
        "versions": [
            {**version.as_dict(), "decision": decided.get(version.version, "none yet")}
            for version in Registry(settings).versions(name)
        ],
    }


def _decision(entry: Entry) -> str:
    """What the newest entry about a version says of it."""
    match entry.kind, entry.detail.get("outcome"):
        case (kind, _) if kind == BEGUN:
            return "rolling out"
        case (kind, outcome) if kind == ENDED:
            return {"promoted": "promoted", "rejected": "refused"}.get(str(outcome), f"rollout {outcome}")
    return entry.kind


def create(
    settings: Settings,
    name: str,
    table: str,
    *,
    time: str,
    label: str,
    row_id: str | None,
    known_after_days: float,
    time_format: str | None,
    force: bool,
) -> dict[str, Any]:
    """A new pipeline folder for a table."""
    from millrace.scaffold.write import create_pipeline

    made = create_pipeline(
        name,
        table,
        time=time,
        label=label,
        id=row_id,
        pipelines_dir=settings.pipelines,
        known_after_days=known_after_days,
        time_format=time_format,
        force=force,
    )
    found = made.inferred
    return {
        "name": made.name,
        "folder": str(made.folder),
        "inferred": {
            "rows": f"{found.num_rows:,}, {found.num_labelled:,} of them labelled",
            "time": f"{found.first} to {found.last}",
            "label": f"{found.label.kind}: {found.label.why}",
            "metric": found.label.metric,
            "features": f"{len(found.features)} taken, {len(found.left_out)} left out",
            "checked every": f"{found.plan.period}, about {found.plan.rows_per_window:,.0f} rows each",
            "quarantined": f"{made.num_quarantined:,} rows",
        },
        "notes": list(made.notes),
    }
