"""Channels: the split does not depend on how the text arrives, and nothing of a tag is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from qqmem.engine.text import Channels
from qqmem.engine.types import Channel

Split = dict[Channel, str]

parts = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<action>", "</action>", "<", "</", "<thi", "好", "a", "\n", "STOP", "ST", ">"]
    ),
    max_size=12,
)


def split(pushes: list[str], channel: Channel = "reply", stop: tuple[str, ...] = ()) -> Split:
    channels = Channels(channel, stop)
    out: Split = {"think": "", "reply": "", "action": ""}
    for push in pushes:
        for text, where in channels.push(push):
            out[where] += text
    if not channels.stopped:
        for text, where in channels.flush():
            out[where] += text
    return out


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("你好", "reply", {"reply": "你好"}),
        ("想一想</think>\n\n你好", "think", {"think": "想一想", "reply": "你好"}),
        ("<think>想</think>好", "reply", {"think": "想", "reply": "好"}),
        ("<think>想</think>好", "think", {"think": "想", "reply": "好"}),
        ("还没想完", "think", {"think": "还没想完"}),
        ("好<think>漏", "reply", {"reply": "好", "think": "漏"}),
        ('好<action>{"type": "POKE"}</action>的', "reply", {"reply": "好的", "action": '{"type": "POKE"}'}),
        ("a </think> b", "reply", {"reply": "a  b"}),
        ("1 < 2 and 2 > 1 </", "reply", {"reply": "1 < 2 and 2 > 1 </"}),
        ('{"type": "x"}', "reply", {"reply": '{"type": "x"}'}),
    ],
)
def test_channels(text: str, start: Channel, expected: Split) -> None:
    assert {k: v for k, v in split([text], start).items() if v} == expected


@given(parts, st.sampled_from(["think", "reply"]), st.sampled_from([(), ("STOP",), ("STOP", "ST\n")]))
@example(["S", "T", "O", "P", "x"], "reply", ("STOP",))
def test_the_split_does_not_depend_on_the_pushes(pushes: list[str], start: Channel, stop: tuple[str, ...]) -> None:
    text = "".join(pushes)
    assert split(pushes, start, stop) == split([text], start, stop) == split(list(text), start, stop)


@given(parts, st.sampled_from(["think", "reply"]))
def test_what_is_shown_early_is_never_taken_back(pushes: list[str], start: Channel) -> None:
    channels = Channels(start)
    shown = ""
    for push in pushes:
        shown += "".join(text for text, where in channels.push(push) if where == "reply")
        assert split(pushes, start)["reply"].startswith(shown)


@given(st.text(alphabet="STOPab", max_size=20))
def test_a_stop_string_ends_the_text(text: str) -> None:
    channels = Channels("reply", ("STOP",))
    shown = "".join(piece for char in text for piece, _ in channels.push(char))
    assert channels.stopped == ("STOP" in text)
    if channels.stopped:
        assert shown == text.partition("STOP")[0]
        assert not list(channels.push("more"))
