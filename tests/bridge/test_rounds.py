"""Talk between bots ends; people are not taken for bots."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from qqmem_bridge.rounds import REST, Rounds


def test_who_is_always_as_quick_as_a_bot_is_left_alone_for_a_while() -> None:
    rounds, now = Rounds(3), 1000.0
    for _ in range(3):
        rounds.replied("g", now)
        assert not rounds.is_too_much("g", "bot", now + 1)
        assert not rounds.is_too_much("g", "bot", now + 2)  # two messages to one reply are one round
        now += 10
    rounds.replied("g", now)
    assert rounds.is_too_much("g", "bot", now + 1)
    assert rounds.is_too_much("g", "bot", now + REST)
    assert not rounds.is_too_much("g", "ann", now + REST)
    assert not rounds.is_too_much("h", "bot", now + 1)
    assert not rounds.is_too_much("g", "bot", now + REST + 2)


@pytest.mark.parametrize("between", ["slow", "others"])
def test_who_takes_time_or_is_not_alone_is_no_bot(between: str) -> None:
    rounds, now = Rounds(3), 1000.0
    for n in range(30):
        rounds.replied("g", now)
        if between == "others" and n % 3 == 2:
            rounds.is_too_much("g", "ann", now + 1)
        assert not rounds.is_too_much("g", "bob", now + (6 if between == "slow" and n % 3 == 2 else 1))
        now += 10


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.floats(0, 10)), max_size=60))
def test_without_a_limit_nobody_is_left_alone(steps: list[tuple[bool, str, float]]) -> None:
    rounds, now = Rounds(0), 0.0
    for replies, user, seconds in steps:
        now += seconds
        if replies:
            rounds.replied("g", now)
        assert not rounds.is_too_much("g", user, now)
