"""The figures of a rollback under load: an answer too late, wrong or missing is counted."""

from __future__ import annotations

from benchmarks.reliability.rollback import Answer, Rollback, summary

#: Two rollbacks, from 2 to 1 and from 1 to 2.
ROLLBACKS = [Rollback(10.0, 13.0, "2"), Rollback(20.0, 21.0, "1")]
GOOD = [
    Answer(9.0, 9.1, "2", True),
    Answer(11.0, 11.5, "2", True),
    Answer(12.0, 12.1, "1", True),
    Answer(20.2, 20.4, "1", True),
    Answer(20.5, 20.6, "2", True),
]


def test_the_seconds_end_with_the_last_answer_of_the_old_version() -> None:
    found = summary(GOOD, ROLLBACKS)
    assert (found["p50_seconds"], found["p99_seconds"]) == (0.4, 1.5)
    assert (found["command_p50_seconds"], found["command_p99_seconds"]) == (1.0, 3.0)
    assert (found["count"], found["requests"], found["failed"], found["mis_versioned"]) == (2, 5, 0, 0)


def test_a_late_a_wrong_and_a_missing_answer_are_told_apart() -> None:
    late = Answer(13.1, 13.2, "2", True)
    asked_before_the_end = Answer(12.9, 13.2, "2", True)
    wrong = Answer(14.0, 14.1, "1", False)
    missing = Answer(15.0, 15.1, None, False)
    found = summary([*GOOD, late, asked_before_the_end, wrong, missing], ROLLBACKS)
    assert (found["mis_versioned"], found["failed"]) == (2, 1)
    assert found["p99_seconds"] == 3.2
