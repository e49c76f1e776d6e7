"""From a table to a pipeline that runs, and bad tables to messages that help."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from millrace.contract import check
from millrace.encoding import TableInputs, encode, labels
from millrace.errors import ConfigError, SourceError
from millrace.pipeline import load_pipeline
from millrace.scaffold.write import Created, create_pipeline
from millrace.window import Window

pytestmark = pytest.mark.unit


def write(table: pd.DataFrame, folder: Path, suffix: str = ".csv") -> str:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return str(path)


def run(created: Created, pipelines: Path) -> float:
    """Source, contract, encoding, model: the loss of one step."""
    pipeline = load_pipeline(created.name, pipelines)
    data = pipeline.spec.data
    start, end = pipeline.source.extent()
    checked = check(pipeline.source.rows(start, end, end + timedelta(days=400)), data, Window(start, end))
    assert len(checked.quarantined) <= 0.002 * checked.num_rows
    assert checked.good[data.row_id].is_unique
    good = checked.good[checked.good[data.label.column].notna()]
    module = pipeline.build_model(TableInputs.fit(good, data), pipeline.spec.model.options)
    batch = {name: torch.from_numpy(array) for name, array in encode(good, data).items()}
    logits, targets = module(batch), torch.from_numpy(labels(good, data))
    assert logits.shape == (len(good), data.label.outputs)
    if data.label.kind == "multiclass":
        loss = functional.cross_entropy(logits, targets.long())
    elif data.label.kind == "binary":
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], targets)
    else:
        loss = functional.mse_loss(logits[:, 0], (targets - targets.mean()) / targets.std())
    loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in module.parameters())
    return loss.item()


def test_binary_table_with_texts_gaps_and_a_leak(churn: pd.DataFrame, tmp_path: Path) -> None:
    created = create_pipeline(
        "churn", write(churn, tmp_path), "asked_at", "churned", pipelines_dir=tmp_path / "pipelines"
    )

    spec = created.spec
    assert sorted(path.name for path in created.folder.iterdir()) == ["model.py", "pipeline.yaml", "source.py"]
    assert (spec.data.label.kind, spec.data.label.positive, spec.evaluation.metric) == ("binary", "yes", "roc_auc")
    assert spec.data.numeric == ("tenure", "balance", "calls")
    assert spec.data.categorical == ("plan", "zip", "paperless")
    assert set(spec.data.features["plan"].values) == {"basic", "plus", "no", "1", "key: value"}  # type: ignore[union-attr]
    assert set(spec.data.features["zip"].values) == {"01234", "99999", "00501"}  # type: ignore[union-attr]
    assert set(spec.data.features["paperless"].values) == {"true", "false"}  # type: ignore[union-attr]
    assert spec.data.features["balance"].nullable
    assert not spec.data.features["tenure"].nullable
    assert any("LEAK" in note and "refund_code" in note for note in created.notes)
    assert np.isfinite(run(created, tmp_path / "pipelines"))


def test_multiclass_table_without_numbers(tickets: pd.DataFrame, tmp_path: Path) -> None:
    created = create_pipeline(
        "tickets",
        write(tickets, tmp_path, ".parquet"),
        "opened",
        "queue",
        id="ticket",
        pipelines_dir=tmp_path / "pipelines",
        known_after_days=2.5,
    )

    assert set(created.spec.data.label.classes) == {"billing", "login", "delivery", "other"}
    assert created.spec.evaluation.metric == "log_loss"
    assert created.spec.data.numeric == ()
    assert created.spec.data.features["product"].open  # type: ignore[union-attr]
    assert created.spec.data.label.delay_days == 2.5
    assert "text" not in created.spec.data.features
    assert np.isfinite(run(created, tmp_path / "pipelines"))


def test_regression_table_with_dates_constants_and_ids(houses: pd.DataFrame, tmp_path: Path) -> None:
    created = create_pipeline(
        "houses", write(houses, tmp_path, ".csv.gz"), "sold", "price", pipelines_dir=tmp_path / "pipelines"
    )

    assert created.spec.data.label.kind == "regression"
    assert created.spec.evaluation.metric == "rmse"
    assert list(created.spec.data.features) == ["area", "delta"]
    left_out = {column.name: column for column in created.inferred.left_out}
    assert set(left_out) == {"listed", "house_id", "country", "price_with_tax"}
    assert left_out["price_with_tax"].is_leak
    assert "date" in left_out["listed"].note
    assert np.isfinite(run(created, tmp_path / "pipelines"))


def test_slips_are_quarantined_and_allowed_for(churn: pd.DataFrame, tmp_path: Path) -> None:
    table = churn.copy()
    table["tenure"] = table["tenure"].astype(str)
    table.loc[:19, "tenure"] = "unknown!"
    table.loc[20:29, "asked_at"] = "soon"

    created = create_pipeline("slips", write(table, tmp_path), "asked_at", "churned", pipelines_dir=tmp_path)

    assert created.num_quarantined == 30
    assert created.spec.data.max_quarantined_share >= 30 / 1200
    assert any("10 rows have no readable time" in note for note in created.notes)


def test_whole_codes_with_gaps_stay_whole_as_labels(churn: pd.DataFrame, tmp_path: Path) -> None:
    table = churn.assign(grade=lambda rows: rows["calls"] % 3)

    created = create_pipeline("grades", write(table, tmp_path, ".parquet"), "asked_at", "grade", pipelines_dir=tmp_path)

    assert created.spec.data.label.classes == ["0", "1", "2"]
    assert any("regression" in note for note in created.notes)


def test_late_labels_stretch_the_judging_window(churn: pd.DataFrame, tmp_path: Path) -> None:
    path = write(churn, tmp_path)
    prompt = create_pipeline("prompt", path, "asked_at", "churned", pipelines_dir=tmp_path)
    late = create_pipeline("late", path, "asked_at", "churned", pipelines_dir=tmp_path, known_after_days=30)

    assert late.spec.evaluation.window_days == pytest.approx(prompt.spec.evaluation.window_days + 30)


def test_folder_is_replaced_only_by_force_and_only_a_pipeline(churn: pd.DataFrame, tmp_path: Path) -> None:
    path, pipelines = write(churn, tmp_path), tmp_path / "pipelines"
    created = create_pipeline("twice", path, "asked_at", "churned", pipelines_dir=pipelines)
    (created.folder / "notes.txt").write_text("mine")

    with pytest.raises(ConfigError, match="exists already"):
        create_pipeline("twice", path, "asked_at", "churned", pipelines_dir=pipelines)
    create_pipeline("twice", path, "asked_at", "churned", pipelines_dir=pipelines, force=True)
    assert not (created.folder / "notes.txt").exists()
    (pipelines / "data").mkdir()
    with pytest.raises(ConfigError, match="no pipeline"):
        create_pipeline("data", path, "asked_at", "churned", pipelines_dir=pipelines, force=True)


def test_a_failure_leaves_nothing_behind(churn: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise SourceError("broken")

    monkeypatch.setattr("millrace.scaffold.write.render", fail)
    with pytest.raises(SourceError, match="broken"):
        create_pipeline("nothing", write(churn, tmp_path), "asked_at", "churned", pipelines_dir=tmp_path / "pipelines")
    assert list((tmp_path / "pipelines").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "suggestion"), [("My Churn", "my_churn"), ("2024-sales", "sales"), ("../x", "x"), ("", "my_pipeline")]
)
def test_bad_name_gets_a_suggestion(name: str, suggestion: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"try '{suggestion}'"):
        create_pipeline(name, "table.csv", "time", "label", pipelines_dir=tmp_path)


def test_one_column_cannot_have_two_parts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="different columns"):
        create_pipeline("same", "table.csv", "time", "time", pipelines_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"churned": None}, "no known value"),
        ({"churned": "yes"}, "one value only"),
        ({"asked_at": "never"}, "holds no times"),
        ({"tenure": 1, "balance": 1, "plan": 1, "zip": 1, "paperless": 1, "calls": 1, "refund_code": 1}, "no column"),
    ],
)
def test_tables_that_teach_nothing_are_refused(
    churn: pd.DataFrame, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write(churn.assign(**change), tmp_path)
    with pytest.raises(SourceError, match=message):
        create_pipeline("bad", path, "asked_at", "churned", pipelines_dir=tmp_path / "pipelines")
    assert not (tmp_path / "pipelines").exists()


def test_one_row_is_too_few(churn: pd.DataFrame, tmp_path: Path) -> None:
    path = write(churn.head(1), tmp_path)
    with pytest.raises(SourceError, match="too few rows"):
        create_pipeline("tiny", path, "asked_at", "churned", pipelines_dir=tmp_path)


def test_free_text_is_no_label(tickets: pd.DataFrame, tmp_path: Path) -> None:
    path = write(tickets, tmp_path)
    with pytest.raises(SourceError, match="900 different texts"):
        create_pipeline("texts", path, "opened", "text", pipelines_dir=tmp_path)
