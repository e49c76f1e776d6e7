"""A training answers an incident of its own pipeline, and one that no other run answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from millrace.errors import ConflictError, DataError, UnknownNameError
from millrace.ledger import Incident, Ledger
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.window import Window
from tasks.incidents import answering, require_own
from tasks.run import Run, open_run

INCIDENT = Incident("tiny", "1", "quality", Window.from_key("20240101T000000-20240201T000000"), {})
FOREIGN = Incident("other", "1", "quality", INCIDENT.window, {})


@pytest.fixture
def run(
    tmp_path: Path, local_settings: Settings, write_pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    write_pipeline(tmp_path)
    for name, value in local_settings.environment().items():
        monkeypatch.setenv(name, value)
    with closing(Ledger(local_settings.ledger)) as ledger, open_run("training", "tiny", run_id="run-1") as made:
        ledger.outbox.open(INCIDENT, FOREIGN)
        yield made


def test_its_own_incident_is_answered_by_the_run_that_the_ledger_names(run: Run) -> None:
    require_own(run, None)
    require_own(run, INCIDENT.key)
    run.ledger.outbox.answer(INCIDENT.key, run.id)
    require_own(run, INCIDENT.key)


def test_what_another_run_answers_is_not_answered_again(run: Run) -> None:
    run.ledger.outbox.answer(INCIDENT.key, "run-0")
    with pytest.raises(ConflictError, match="is answered by another run") as caught:
        require_own(run, INCIDENT.key)
    assert "run-0" in str(caught.value.got)


@pytest.mark.parametrize("key", ["", "nonsense", "incident-\0", "incident-" + "0" * 24])
def test_what_is_no_incident_is_refused_before_anything_is_trained(run: Run, key: str) -> None:
    with pytest.raises(UnknownNameError, match="no incident"):
        require_own(run, key)


def test_an_incident_of_another_pipeline_is_refused(run: Run) -> None:
    with pytest.raises(ConflictError, match="is one of another pipeline"):
        require_own(run, FOREIGN.key)


def test_what_failed_is_told_and_kept_as_the_outcome(run: Run) -> None:
    with pytest.raises(DataError, match="no rows"), answering(run, INCIDENT.key):
        raise DataError("no rows")
    found = run.ledger.outbox.find(INCIDENT.key)
    assert found is not None
    assert found.outcome == "failed"


@pytest.mark.parametrize("incident", ["nonsense", FOREIGN.key])
def test_an_incident_that_is_not_its_own_gets_no_outcome(run: Run, incident: str) -> None:
    with pytest.raises((UnknownNameError, ConflictError)), answering(run, incident):
        pass
    found = run.ledger.outbox.find(FOREIGN.key)
    assert found is not None
    assert found.outcome is None
