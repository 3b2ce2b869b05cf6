from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qqmem.chat import Token
from qqmem.engine.types import FinishReason, Sampling, Timing, Usage
from qqmem.records import Action, Message, Role, Sender
from qqmem.settings import Generation
from qqmem.turn import said
from tests.talk import GROUP, PRIVATE, open_talk

LIKE = '<action>{"type": "EMOJI_LIKE", "emoji_id": 76}</action>'
STOPPED = "The model stopped before it wrote a reply; send the message again."
NO_ROOM = "The model ran out of room before it wrote a reply; raise generation.max_new_tokens."
NO_TIME = "The model ran out of time before it wrote a reply;"


@pytest.mark.parametrize(
    ("conversation", "thinks", "text", "reason", "outcome", "reply", "error"),
    [
        (PRIVATE, False, " 在。\n", "stop", "replied", "在。", ""),
        (PRIVATE, True, "想想</think>\n\n在。", "stop", "replied", "在。", ""),
        (PRIVATE, False, "<think>想想</think>在。", "stop", "replied", "在。", ""),
        (PRIVATE, False, "很长很", "length", "replied", "很长很", ""),
        (PRIVATE, False, "很慢很", "time", "replied", "很慢很", ""),
        (PRIVATE, False, '给：{"type": "POKE"}', "stop", "replied", '给：{"type": "POKE"}', ""),
        (PRIVATE, False, "[2026-11-22 17:00] 小忆(QQ:1)：在。", "stop", "replied", "在。", ""),
        (PRIVATE, False, "在。\n[2026-11-22 17:00] 小明(QQ:7)：好吧", "length", "replied", "在。", ""),
        (PRIVATE, False, LIKE, "stop", "replied", "", ""),
        (PRIVATE, False, "<no_reply>", "stop", "no_reply", "", ""),
        (GROUP, False, "<no_reply>", "stop", "no_reply", "", ""),
        (GROUP, False, "想不</no_reply>出", "stop", "replied", "想不</no_reply>出", ""),
        (GROUP, False, "<no_reply>" + LIKE, "stop", "replied", "", ""),
        (GROUP, False, "", "stop", "no_reply", "", ""),
        (GROUP, False, "", "time", "failed", "", NO_TIME),
        (GROUP, True, "想到一半", "stop", "failed", "", STOPPED),
        (PRIVATE, False, " \n", "stop", "failed", "", STOPPED),
        (PRIVATE, True, "想到一半", "length", "failed", "", NO_ROOM),
        (PRIVATE, True, "", "length", "failed", "", NO_ROOM),
        (PRIVATE, False, "<think>想到一半", "time", "failed", "", NO_TIME),
    ],
)
async def test_what_becomes_of_what_the_model_writes(
    tmp_path: Path,
    conversation: str,
    thinks: bool,
    text: str,
    reason: FinishReason,
    outcome: str,
    reply: str,
    error: str,
) -> None:
    async with open_talk(tmp_path, thinks=thinks) as talk:
        waiting = await talk.say("小忆在吗", conversation)
        writing = await talk.writer.next()
        writing.write(text)
        writing.finish(reason)
        end = await waiting.end()
        assert (end.outcome, end.reply) == (outcome, reply)
        assert end.error.startswith(error)
        assert (bool(end.error), end.code) == (bool(error), "engine" if error else "")
        (turn,) = await talk.turns(conversation)
        assert (turn.end.outcome, turn.end.reply, turn.end.error) == (outcome, reply, end.error)
        shown = [event for event in talk.events if isinstance(event, Token)]
        assert "".join(token.text for token in shown if token.channel == "reply") == reply
        said = [">" + reply] if outcome in ("replied", "no_reply") else []
        assert await talk.texts(conversation) == ["小忆在吗", *said]


async def test_a_model_that_goes_on_for_others_is_stopped(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        waiting = await talk.say("在吗")
        writing = await talk.writer.next()
        writing.write("在的。\n\n[2026-11-22 17:00] 小明(QQ:7)：")
        end = await waiting.end()
        assert (end.outcome, end.reply, end.usage.completion) == ("replied", "在的。", 33)
        assert writing.closed.is_set()


async def test_a_small_model_hears_nothing_of_actions_and_one_that_thinks_does(tmp_path: Path) -> None:
    for thinks in (False, True):
        folder = tmp_path / str(thinks)
        async with open_talk(folder, thinks=thinks, script=lambda prompt: "想</think>在") as talk:
            await (await talk.say("在吗")).end()
            assert ("<action>" in talk.writer.writings[0].prompt) is thinks


async def test_who_may_not_be_silent_is_not_shown_silence(tmp_path: Path) -> None:
    async with open_talk(tmp_path, script=lambda prompt: LIKE) as talk:
        for text in ("一", "二"):
            assert (await (await talk.say(text)).end()).actions
        assert await talk.texts() == ["一", ">", "二", ">"]
    prompt = talk.writer.writings[1].prompt
    assert "no_reply" not in prompt
    assert "：一\n[" in prompt


async def test_thoughts_are_streamed_apart_and_stored_with_the_turn(tmp_path: Path) -> None:
    async with open_talk(tmp_path, thinks=True, script=lambda prompt: "想\n</think>在") as talk:
        end = await (await talk.say("在吗")).end()
        (turn,) = await talk.turns()
    shown = [(event.channel, event.text) for event in talk.events if isinstance(event, Token)]
    assert shown == [("think", "想"), ("think", "\n"), ("reply", "在")]
    assert (end.reply, turn.end.thinking) == ("在", "想")


async def test_actions_are_told_and_stored_and_not_shown(tmp_path: Path) -> None:
    text = f'好的{LIKE}！<action>{{"type": "POKE"}}</action><action>别的</action>'
    async with open_talk(tmp_path, script=lambda prompt: text) as talk:
        end = await (await talk.say("小忆在吗", GROUP, qq="8", message_id="m1")).end()
        (turn,) = await talk.turns(GROUP)
    expected = (
        Action("EMOJI_LIKE", emoji_id=76, message_id="m1"),
        Action("POKE", user_id="8", target="user"),
    )
    assert (end.reply, end.actions, turn.end.actions) == ("好的！", expected, expected)


async def test_usage_and_timing_are_those_of_the_engine(tmp_path: Path) -> None:
    async with open_talk(tmp_path, script=lambda prompt: "在的") as talk:
        end = await (await talk.say("在吗")).end()
        (turn,) = await talk.turns()
        prompt = len(talk.writer.writings[0].request.prompt)
    assert (end.usage, end.timing) == (Usage(prompt, 0, 2), Timing(0.25, 0.5, 1.0))
    stored = turn.end
    assert (stored.prompt_tokens, stored.cached_tokens, stored.completion_tokens) == (prompt, 0, 2)
    assert (stored.queue_s, stored.first_token_s, stored.total_s) == (0.25, 0.5, 1.0)


@pytest.mark.parametrize("thinks", [False, True])
async def test_the_request_follows_the_settings(tmp_path: Path, thinks: bool) -> None:
    generation = Generation(
        max_new_tokens=7, temperature=0.1, top_k=2, top_p=0.3, min_p=0.4, repetition_penalty=1.5, seed=6
    )
    async with open_talk(tmp_path, thinks=thinks, generation=generation) as talk:
        await talk.say("在吗")
        request = (await talk.writer.next()).request
    assert request.sampling == Sampling(0.1, 2, 0.3, 0.4, 1.5, 0.0, 6)
    assert (request.max_new_tokens, request.time_limit, request.conversation) == (7, 300.0, PRIVATE)
    assert request.channel == ("think" if thinks else "reply")


# ---- the order of the history -----------------------------------------------------------------------------------


def message(number: int, role: Role, turn: int | None) -> Message:
    return Message(
        id=number,
        conversation=GROUP,
        role=role,
        message_id=None,
        sender=Sender("7", "小明"),
        text=str(number),
        reply_to=None,
        addressed=False,
        time=datetime(2026, 11, 22, tzinfo=UTC),
        turn=turn,
        withdrawn=False,
    )


def order(*history: tuple[int, Role, int | None]) -> list[int]:
    return [one.id for one in said([message(*one) for one in history], silence=False)]


def test_a_reply_follows_the_last_message_that_it_answers() -> None:
    stored: list[tuple[int, Role, int | None]] = [
        (1, "user", 1),
        (2, "user", None),
        (3, "user", 1),
        (4, "user", 2),
        (5, "user", None),
        (6, "assistant", 1),
        (7, "assistant", 2),
    ]
    assert order(*stored) == [1, 2, 3, 6, 4, 7, 5]


def test_a_reply_to_what_is_out_of_sight_is_left_out() -> None:
    assert order((4, "user", None), (5, "assistant", 1), (6, "user", 2)) == [4, 6]


def test_where_the_bot_said_nothing_is_left_out_unless_it_may_be_silent() -> None:
    history = [message(1, "user", 1), replace(message(2, "assistant", 1), text=""), message(3, "user", 2)]
    assert [one.id for one in said(history, silence=False)] == [1, 3]
    assert [one.id for one in said(history, silence=True)] == [1, 2, 3]


def test_what_answers_nothing_stays_where_it_is() -> None:
    assert order((1, "user", None), (2, "assistant", None), (3, "user", 1)) == [1, 2, 3]
