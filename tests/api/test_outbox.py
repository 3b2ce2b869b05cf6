from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, strategies as st

from qqmem.api.frames import AcceptedFrame, PongFrame, RecallFrame, ServerFrame, TokenFrame
from qqmem.api.outbox import MOST_WAITING, Outbox

tokens = st.builds(
    TokenFrame,
    turn=st.integers(1, 3),
    channel=st.sampled_from(["think", "reply"]),
    text=st.text(max_size=3),
    n=st.integers(1, 99),
)
others = st.builds(AcceptedFrame, conversation=st.just("private:1"), id=st.integers(1, 9))


def said(frames: list[ServerFrame], turn: int) -> list[tuple[str, str]]:
    return [(f.channel, char) for f in frames if isinstance(f, TokenFrame) and f.turn == turn for char in f.text]


def numbers(frames: list[ServerFrame]) -> list[int]:
    return [f.id for f in frames if isinstance(f, AcceptedFrame)]


@given(st.lists(st.one_of(tokens, others, st.none())))
async def test_an_outbox_loses_nothing_and_keeps_the_order_within_a_turn(steps: list[ServerFrame | None]) -> None:
    """None: the reader takes one."""
    outbox = Outbox()
    put: list[ServerFrame] = []
    taken: list[ServerFrame] = []
    for step in steps:
        if step is not None:
            put.append(step.model_copy())
            outbox.put(step)
        elif outbox:
            taken.append(await take(outbox))
    while outbox:
        taken.append(await take(outbox))
    for turn in (1, 2, 3):
        assert said(taken, turn) == said(put, turn)
    assert numbers(taken) == numbers(put)


async def take(outbox: Outbox) -> ServerFrame:
    frame = await outbox.take()
    assert frame is not None
    return frame


async def test_tokens_that_wait_together_are_one_frame_for_each_turn() -> None:
    outbox = Outbox()
    for n in range(1, 1001):
        for turn in (1, 2):
            outbox.put(TokenFrame(turn=turn, channel="reply", text="字", n=n))
    assert len(outbox) == 2
    assert await outbox.take() == TokenFrame(turn=1, channel="reply", text="字" * 1000, n=1000)


async def test_a_token_never_joins_a_frame_that_is_already_on_its_way() -> None:
    outbox = Outbox()
    outbox.put(TokenFrame(turn=1, channel="reply", text="a", n=1))
    sent = await take(outbox)
    outbox.put(TokenFrame(turn=1, channel="reply", text="b", n=2))
    assert sent == TokenFrame(turn=1, channel="reply", text="a", n=1)
    assert await outbox.take() == TokenFrame(turn=1, channel="reply", text="b", n=2)


async def test_thoughts_and_reply_are_not_joined() -> None:
    outbox = Outbox()
    outbox.put(TokenFrame(turn=1, channel="think", text="a", n=1))
    outbox.put(TokenFrame(turn=1, channel="reply", text="b", n=2))
    assert len(outbox) == 2


async def test_what_is_written_behind_a_recall_comes_behind_it() -> None:
    outbox = Outbox()
    recall = RecallFrame(turn=1, cue="", candidates=(), mode="none")
    before, behind = (TokenFrame(turn=1, channel="think", text=text, n=n) for n, text in enumerate("ab", 1))
    put: list[ServerFrame] = [before, recall, behind]
    for frame in put:
        outbox.put(frame)
    assert [await outbox.take() for _ in range(len(outbox))] == put


async def test_a_reader_that_waits_gets_what_comes_and_the_end() -> None:
    outbox = Outbox()
    waiting = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put(PongFrame())
    assert await waiting == PongFrame()
    waiting = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.close()
    assert await waiting is None


async def test_what_is_left_at_the_close_is_still_read() -> None:
    outbox = Outbox()
    outbox.put(PongFrame())
    outbox.close()
    assert [await outbox.take(), await outbox.take()] == [PongFrame(), None]


async def test_there_is_no_room_while_too_much_waits() -> None:
    outbox = Outbox()
    for _ in range(MOST_WAITING):
        await outbox.room()
        outbox.put(PongFrame())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await outbox.room()
    await outbox.take()
    await outbox.room()
