"""What people see is what was said, whatever is in it: square brackets are no markup, and stop nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flows import show
from flows.progress import Progress

TEXT = "[/tmp/x] [bold]x[k"
MOMENT = "2024-01-01T00:00:00+00:00"
WINDOW = {"start": MOMENT, "end": MOMENT}
REQUEST = {
    "request": TEXT, "summary": TEXT, "state": "open", "reason": TEXT, "refused_tries": [TEXT],
    "evidence": f"| | |\n|---|---|\n| {TEXT} | {TEXT} |",
}  # fmt: skip
PART = {"ready": True, "running": True, "address": TEXT, "pid": 1, "detail": TEXT}
ENTRY = {"entry": 1, "at": MOMENT, "kind": TEXT, "subject": TEXT, "why": TEXT, "actor": TEXT}
MONTH = {
    "month": TEXT, "rows": 1, "static": None, "live": None, "version": TEXT, "incident_kind": TEXT, "improvement": None,
    "outcome": TEXT, "cost": 0.0,
}  # fmt: skip

#: An answer by the function that shows it, and how often the text must be seen.
ANSWERS: Mapping[str, tuple[Any, int]] = {
    "stack": ({"parts": {TEXT: PART}, "pipelines": {TEXT: {"version": TEXT}}}, 5),
    "exported": ({"pipeline": TEXT, "version": TEXT, "files": {TEXT: 1}}, 3),
    "validation": (
        {
            "pipeline": TEXT, "folder": TEXT, "extent": WINDOW, "rows": 1, "unlabelled": 0, "quarantined": 1,
            "quarantine_reasons": {TEXT: 1}, "features": {"numeric": 1, "categorical": 0}, "model_parameters": 1,
        },
        3,
    ),
    "training": (
        {
            "pipeline": TEXT, "outcome": TEXT, "version": TEXT, "trained": False, "reasons": [TEXT],
            "evaluation": {TEXT: {"auc": 0.5}},
        },
        5,
    ),
    "check": (
        {
            "window": WINDOW, "version": TEXT, "rows": 1, "outcomes": 1, "incident": TEXT, "brake": TEXT,
            "report": TEXT,
            "verdicts": [{"gate": TEXT, "passed": False, "reasons": [TEXT]}],
        },
        6,
    ),
    "rollback": ({"pipeline": TEXT, "version": TEXT, "seconds": 1.0}, 2),
    "traffic": (
        {
            "pipeline": TEXT, "version": TEXT, "shares": {TEXT: 1.0}, "sticky": "session", "pins": {TEXT: TEXT},
            "canary": None, "shadow": {"version": TEXT, "share": 0.1},
        },
        6,
    ),
    "shadow": (
        {
            "pipeline": TEXT, "version": TEXT, "answered_by": [TEXT],
            "verdict": {"passed": True, "reasons": [TEXT], "evidence": {}},
        },
        4,
    ),
    "versions": (
        {
            "pipeline": TEXT,
            "versions": [
                {
                    "version": TEXT, "aliases": [TEXT], "decision": TEXT, "created_at": 0.0,
                    "tags": {"millrace.verdict": TEXT},
                }
            ],
        },
        5,
    ),
    "history": (
        {
            "pipeline": TEXT, "at": None, "entries": [ENTRY],
            "serving": {"version": TEXT, "package": TEXT, "since": MOMENT, "because": ENTRY, "decided_by": TEXT},
        },
        11,
    ),
    "approvals": ({"requests": [REQUEST]}, 8),
    "answered": ({"answer": "reject", "approver": TEXT, "summary": TEXT, "resumed": [TEXT], "note": TEXT}, 4),
    "approvers": (
        {
            "approvers": [{"name": TEXT, "person": TEXT, "vouched_by": TEXT, "public_key": TEXT}],
            "ignored": [{"entry": 1, "kind": TEXT, "name": TEXT}],
        },
        6,
    ),
    "approver_added": ({"name": TEXT, "person": TEXT, "vouched_by": TEXT, "public_key": TEXT, "key": TEXT}, 5),
    "approver_removed": ({"name": TEXT}, 1),
    "created": ({"name": TEXT, "folder": TEXT, "inferred": {TEXT: TEXT}, "notes": [TEXT]}, 7),
    "keys": (
        {
            "keys": [{"id": TEXT, "customer": TEXT, "created_at": MOMENT, "revoked_at": None}],
            "limits": {TEXT: {"rate": 1.0, "burst": 1}},
            "usage": [{"customer": TEXT, "pipeline": TEXT, "used": 1, "quota": 2}],
        },
        5,
    ),
    "limited": ({"customer": TEXT, "limit": None, "daily": None}, 1),
    "demo": (
        {
            "pipeline": TEXT, "metric": TEXT, "period": TEXT, "months": [MONTH], "static_mean": None, "live_mean": None,
            "incidents": 1, "retrains": 1, "promotions": 1, "refused": 0, "seconds_to_first_prediction": None,
            "seconds_total": 1.0, "cost": 0.0, "currency": TEXT, "look_at": {TEXT: TEXT},
        },
        10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_was_said_is_what_is_shown(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    answer, times = ANSWERS[kind]
    getattr(show, kind)(answer)
    shown = " ".join(capsys.readouterr().out.split())  # a title is folded to the width of its table
    assert shown.count(TEXT) == times, shown


def test_what_is_not_served_is_shown_as_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    show.stack({"parts": {}, "pipelines": {"a": None, "b": None, "c": None}, "unserved": {"b": TEXT, "c": None}})
    shown = capsys.readouterr().out
    assert "a serves nothing" in shown
    assert f"b has the champion {TEXT}, which is not served" in shown
    assert "c has no champion yet" in shown


def test_a_line_of_progress_is_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.line(TEXT, TEXT, 1.0)
    progress.line(TEXT, TEXT, style="yellow")
    assert capsys.readouterr().err.count(TEXT) == 4
