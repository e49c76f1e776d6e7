"""Fencing: one token at most is worth something, whatever order takes, releases and publications come in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import FencedError
from millrace.ledger import Fact, Ledger, Slot, Token
from tests.ledgers import at_once

HOLDERS = ("run-1", "run-2", "run-3")
SLOTS: tuple[Slot, ...] = ("training", "serving")


def took(ledger: Ledger, holder: str, over: str | None = None) -> Token:
    token = ledger.slots.take("tiny", "training", holder, instead_of=over)
    assert isinstance(token, Token), token
    return token


def is_valid(ledger: Ledger, token: Token) -> bool:
    try:
        ledger.slots.require(token)
    except FencedError:
        return False
    return True


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from(HOLDERS), st.one_of(st.none(), st.sampled_from(HOLDERS))),
        st.tuples(st.just("release"), st.integers(0, 9), st.none()),
        st.tuples(st.just("publish"), st.integers(0, 9), st.none()),
    ),
    max_size=20,
)


@given(steps=steps)
@settings(max_examples=25, deadline=None)
def test_whatever_the_interleaving_one_token_at_most_is_valid(
    new_url: Callable[[], str], steps: list[tuple[str, str | int, str | None]]
) -> None:
    ledger = Ledger(new_url())
    tokens: list[Token] = []
    held: Token | None = None
    published = 0
    for action, what, over in steps:
        if action == "take":
            answer = ledger.slots.take("tiny", "training", str(what), instead_of=over)
            if held is not None and held.holder not in (what, over):
                assert answer == held.holder, "who holds it is told"
            else:
                assert isinstance(answer, Token)
                assert all(answer.number > token.number for token in tokens), "a later token is higher"
                held = answer
                tokens.append(answer)
        elif tokens:
            token = tokens[int(what) % len(tokens)]
            if action == "release":
                ledger.slots.release(token)
                held = None if token == held else held
            elif token == held:
                ledger.append(Fact("tiny", "published", "x", {}), token=token)
                published += 1
            else:
                with pytest.raises(FencedError):
                    ledger.append(Fact("tiny", "published", "x", {}), token=token)
        assert [token for token in tokens if is_valid(ledger, token)] == ([] if held is None else [held])
        assert ledger.slots.holder("tiny", "training") == (None if held is None else held.holder)
    assert len(ledger.entries("tiny", "published")) == published, "nothing of a refused one is kept"
    ledger.close()


def test_a_zombie_publishes_nothing(ledger: Ledger) -> None:
    zombie = took(ledger, "run-1")
    alive = took(ledger, "run-1")
    assert alive.number > zombie.number
    cause = ledger.decide("tiny", "promoted", "2", {}, token=alive)
    attempts: list[Callable[[], object]] = [
        lambda: ledger.append(Fact("tiny", "noted", "x", {}), token=zombie),
        lambda: ledger.decide("tiny", "promoted", "1", {}, token=zombie),
        lambda: ledger.serve("tiny", "1", "sha256:1", because=cause, token=zombie),
        lambda: ledger.slots.require(zombie),
    ]
    before = ledger.entries()
    for attempt in attempts:
        with pytest.raises(
            FencedError, match="run run-1 no longer holds the training slot of pipeline 'tiny'"
        ) as caught:
            attempt()
        assert f"token {zombie.number}; the slot is held by run run-1 with token {alive.number}" in str(caught.value)
    ledger.slots.release(zombie)
    assert ledger.entries() == before
    ledger.slots.require(alive)


def test_who_is_gone_is_replaced_by_name_only(ledger: Ledger) -> None:
    first = took(ledger, "run-1")
    assert ledger.slots.take("tiny", "training", "run-2") == "run-1"
    assert ledger.slots.take("tiny", "training", "run-2", instead_of="run-3") == "run-1"
    second = took(ledger, "run-2", over="run-1")
    assert not is_valid(ledger, first)
    assert ledger.entries("tiny", "training_slot_taken")[-1].detail == {"replaces": first.number}
    ledger.slots.release(second)
    assert ledger.slots.holder("tiny", "training") is None
    with pytest.raises(FencedError, match="held by nobody"):
        ledger.slots.require(second)


def test_slots_and_pipelines_do_not_touch_each_other(ledger: Ledger) -> None:
    tokens = [ledger.slots.take(name, slot, f"run-{name}-{slot}") for name in ("tiny", "other") for slot in SLOTS]
    for token in tokens:
        assert isinstance(token, Token)
        ledger.slots.require(token)
        assert ledger.slots.holder(token.pipeline, token.slot) == token.holder


def test_of_runs_that_take_it_at_once_one_has_it(url: str, ledger: Ledger) -> None:
    answers = at_once(url, lambda mine, number: mine.slots.take("tiny", "training", f"run-{number}"))
    (token,) = [answer for answer in answers if isinstance(answer, Token)]
    assert [answer for answer in answers if answer != token] == [token.holder] * 3
    ledger.slots.require(token)
