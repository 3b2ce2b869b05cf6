"""Long replies in pieces, the pace, and messages that come in a rush."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from qqmem_bridge.hold import Hold, Rush
from qqmem_bridge.messages import mended
from qqmem_bridge.pace import Pace, Rates
from qqmem_bridge.pieces import pieces

TEXTS = st.text(st.sampled_from("ab 。，\n\n！`x字👩\u200d\ufe0f\u0301") | st.characters(), max_size=200)


def squeezed(text: str) -> str:
    return "".join(text.split())


@given(st.lists(TEXTS, max_size=5), st.integers(20, 60), st.integers(1, 6))
def test_pieces_are_short_few_and_lose_nothing_unsaid(parts: list[str], longest: int, most: int) -> None:
    found, rest = pieces(parts, longest, most)
    assert len(found) <= most
    assert all(piece.strip() and len(piece) <= longest for piece in found)
    whole = squeezed("".join(mended(part) for part in parts))
    said = squeezed("".join(found))
    assert said == whole if not rest else (said.endswith("…") and whole.startswith(said[:-1]))
    assert squeezed("".join([*found[: most - 1], *rest] if rest else found)) == whole
    assert all(len(piece) <= longest for piece in rest)


@given(st.integers(0, 80), st.integers(0, 80))
def test_an_address_or_a_block_of_code_is_not_cut(before: int, after: int) -> None:
    for whole in ("https://example.com/a.b?c=1,2", "```\na = 1\n\nb. c\n```"):
        found, _ = pieces([f"{'字' * before} {whole} {'。尾' * after}"], 40, 20)
        assert any(whole in piece for piece in found)


def test_where_it_is_cut() -> None:
    assert pieces(["一段。\n\n二段。"], 5, 4)[0] == ["一段。", "二段。"]
    assert pieces(["第一句话。第二句话。"], 6, 4)[0] == ["第一句话。", "第二句话。"]
    assert pieces(["a", "b", "c"], 100, 3)[0] == ["a", "b", "c"]
    assert pieces(["a", "b", "c"], 100, 2)[0] == ["a\nb\nc"]
    assert pieces(["字" * 50], 10, 2)[0] == ["字" * 10, "字" * 9 + "…"]
    assert pieces(["", "  \n"], 10, 2) == ([], [])
    assert pieces(["字" * 50], 10, 2)[1] == ["字" * 10] * 4
    assert pieces(["e\u0301" * 30], 15, 9)[0][0] == "e\u0301" * 7  # an accent stays on its letter


@given(
    st.integers(1, 30), st.integers(1, 5), st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20)), max_size=60)
)
def test_the_pace_is_kept_whatever_is_asked(minute: int, burst: int, asked: list[tuple[str, float]]) -> None:
    pace = Pace(Rates(1.5, 1.5, minute, burst), random.Random(1))
    now, sent = 0.0, []
    for chat, later in asked:
        now += later
        while (delay := max(pace.chat_delay(chat, now), pace.account_delay(now))) > 0:
            now += max(delay, 1e-6)
        pace.sent(chat, now)
        sent.append((now, chat))
    times = [at for at, _ in sent]
    assert all(b - a > 60 - 1e-6 for a, b in zip(times, times[minute:], strict=False))
    for chat in "abc":
        own = [at for at, other in sent if other == chat]
        assert all(b - a >= 1.5 - 1e-6 for a, b in pairwise(own))


def test_a_burst_goes_through_and_no_more() -> None:
    pace = Pace(Rates(), random.Random(1))
    for chat in "abc":
        assert pace.account_delay(0.0) == 0
        pace.sent(chat, 0.0)
    assert pace.account_delay(0.0) == pytest.approx(9)
    assert 1.5 <= pace.chat_delay("a", 0.0) <= 3


def test_a_rush_is_held_until_it_ends() -> None:
    hold = Hold[str](Rush(2, 8, 4))
    assert hold.add("x", "bob", 0, begins=False) == ["x"]
    assert hold.add("1", "ann", 0, begins=True) == []
    assert hold.due == 2
    assert hold.add("between", "bob", 1, begins=False) == []
    assert hold.due == 2
    hold.typing("bob", 1.5)
    assert hold.due == 2
    hold.typing("ann", 1.9)
    assert hold.due == pytest.approx(3.9)
    assert hold.take() == ["1", "between"]
    assert hold.due is None


def test_a_rush_does_not_go_on_for_ever() -> None:
    hold = Hold[int](Rush(2, 8, 100))
    for second in range(20):
        hold.add(second, "ann", second, begins=True)
    assert hold.due == 8
    few = Hold[int](Rush(2, 8, 3))
    assert [few.add(n, "ann", 0, begins=True) for n in range(4)] == [[], [], [0, 1, 2], []]
