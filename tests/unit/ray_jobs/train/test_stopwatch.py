"""A stopwatch is always in one phase."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.train.stopwatch import PHASES, Stopwatch


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_its_readings_add_up(spans: list[tuple[str, int, int]]) -> None:
    now = [100]
    watch = Stopwatch(lambda: now[0])
    expected: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for number, (phase, inside, after) in enumerate(spans):
        with watch.phase(phase, number):  # type: ignore[arg-type]
            now[0] += inside
            expected[phase] += inside
            watch.mark(number)
        now[0] += after
        expected["idle"] += after
    reading = watch.read()
    assert reading.seconds == expected
    assert sum(reading.seconds.values()) == now[0] - 100
    assert reading.marks.keys() == set(range(max(0, len(spans) - 8), len(spans)))
    steps = sorted(inside for phase, inside, _ in spans if phase == "compute")
    assert reading.step_seconds == (steps[len(steps) // 2] if steps else 0)
