"""Who is answered, together with whom, and what interrupts whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qqmem.chat import Reply, Token, TurnEnded, TurnStarted
from qqmem.engine.types import Item, Request, Tokenizer
from qqmem.errors import ModelError
from tests.fakes import ScriptedWriter
from tests.fakes_engine import CharTokenizer
from tests.talk import GROUP, NOW, PRIVATE, Windows, open_talk


async def events(reply: Reply) -> list[Any]:
    return [event async for event in reply]


async def test_a_private_message_is_answered_while_tokens_stream(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        reply = await talk.say("在吗")
        (stored,) = await talk.history.messages(PRIVATE, 10)
        assert reply.message == stored
        writing = await talk.writer.next()
        writing.write("在的")
        first = [await anext(reply) for _ in range(3)]
        writing.finish()
        assert first == [
            TurnStarted(1, PRIVATE, (1,)),
            Token(1, "reply", "在", 1),
            Token(1, "reply", "的", 2),
        ]
        (end,) = await events(reply)
        assert (end.turn, end.outcome, end.reply, end.usage.completion) == (1, "replied", "在的", 2)
        assert await talk.texts() == ["在吗", ">在的"]
        assert talk.events == [*first, end]


async def test_the_model_reads_who_said_what_and_what_the_bot_answered(tmp_path: Path) -> None:
    async with open_talk(tmp_path, script=lambda prompt: "好。") as talk:
        await (await talk.say("一")).end()
        await (await talk.say("二")).end()
    prompt = talk.writer.writings[1].prompt
    assert "现在用户7(QQ:7)在和你私聊。" in prompt
    assert "用户7(QQ:7)：一⟨/⟩⟨assistant⟩好。⟨/⟩⟨user⟩[" in prompt
    assert prompt.endswith("用户7(QQ:7)：二⟨/⟩⟨assistant⟩")


async def test_a_group_is_told_by_its_name(tmp_path: Path) -> None:
    async with open_talk(tmp_path, script=lambda prompt: "好。") as talk:
        await (await talk.say("小忆好", GROUP, name="读书会")).end()
        await (await talk.say("小忆好", "group:8")).end()
    assert "“读书会”(群号7)" in talk.writer.writings[0].prompt
    assert "“8”(群号8)" in talk.writer.writings[1].prompt


# ---- bursts -----------------------------------------------------------------------------------------------------


async def test_five_messages_at_once_are_kept_in_order_and_answered_once(tmp_path: Path) -> None:
    async with open_talk(tmp_path, script=lambda prompt: "都看到了。") as talk:
        replies = await asyncio.gather(*(talk.say(f"第{i}条") for i in range(5)))
        ends = await asyncio.gather(*(reply.end() for reply in replies))
        assert [end.outcome for end in ends] == ["superseded"] * 4 + ["replied"]
        assert await talk.texts() == [*(f"第{i}条" for i in range(5)), ">都看到了。"]
    prompt = talk.writer.writings[-1].prompt
    assert [prompt.count(f"第{i}条") for i in range(5)] == [1] * 5


async def test_more_messages_than_the_history_holds_lose_none(tmp_path: Path) -> None:
    async with open_talk(tmp_path, script=lambda prompt: "嗯。") as talk:
        for i in range(40):
            assert (await (await talk.say(f"第{i}条")).end()).outcome == "replied"
        replies = await asyncio.gather(*(talk.say(f"第{i}条") for i in range(40, 250)))
        assert (await replies[-1].end()).outcome == "replied"
        texts = [text for text in await talk.texts() if not text.startswith(">")]
        assert texts == [f"第{i}条" for i in range(250)]
    last = talk.writer.writings[-1].prompt
    assert "：第249条⟨/⟩" in last
    assert "：第20条" not in last


class HeldTokenizer(CharTokenizer):
    """Lets a test hold the building of a prompt, in its thread."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.free = threading.Event()
        self.free.set()

    def render(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        self.entered.release()
        self.free.wait()
        return super().render(messages)


async def test_two_messages_while_a_prompt_is_being_built_lose_none(tmp_path: Path) -> None:
    tokenizer = HeldTokenizer()

    async def ready() -> Tokenizer:
        return tokenizer

    async with open_talk(tmp_path, tokenizer=ready) as talk:
        warm = await talk.say("热身")
        (await talk.writer.next()).finish()
        await warm.end()
        while tokenizer.entered.acquire(blocking=False):
            pass
        tokenizer.free.clear()
        try:
            first = await talk.say("A")
            await asyncio.to_thread(tokenizer.entered.acquire)
            second = await talk.say("B")
            assert (await first.end()).outcome == "superseded"
            third = await talk.say("C")
            assert (await second.end()).outcome == "superseded"
        finally:
            tokenizer.free.set()
        writing = await talk.writer.next()
        writing.write("好。")
        writing.finish()
        assert (await third.end()).reply == "好。"
        assert await talk.texts() == ["热身", "A", "B", "C", ">好。"]
    assert [writing.prompt.count(f"：{text}") for text in "ABC"] == [1, 1, 1]


async def test_a_duplicate_is_stored_and_answered_once(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        reply = await talk.say("在吗", message_id="m1")
        writing = await talk.writer.next()
        again = await talk.say("在吗", message_id="m1")
        assert await again.end() == TurnEnded(None, PRIVATE, "no_reply")
        assert again.message.id == reply.message.id
        writing.write("在")
        writing.finish()
        assert (await reply.end()).outcome == "replied"
        assert await talk.texts() == ["在吗", ">在"]


# ---- the merge window -------------------------------------------------------------------------------------------


async def test_messages_within_the_window_become_one_turn(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, chat={"merge_window": 0.3}, sleep=windows.sleep) as talk:
        first = await talk.say("一")
        assert await windows.opened.get() == 0.3
        second = await talk.say("二")
        assert await first.end() == TurnEnded(None, PRIVATE, "superseded")
        third = await talk.say("三")
        assert await second.end() == TurnEnded(None, PRIVATE, "superseded")
        assert windows.opened.empty()
        assert talk.writer.writings == []
        windows.close()
        assert await anext(third) == TurnStarted(1, PRIVATE, (1, 2, 3))


async def test_chatter_within_the_window_is_read_but_not_answered(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep) as talk:
        asked = await talk.say("小忆在吗", GROUP)
        chatter = await talk.say("哈哈", GROUP, qq="8")
        assert await chatter.end() == TurnEnded(None, GROUP, "no_reply")
        windows.close()
        assert await anext(asked) == TurnStarted(1, GROUP, (1,))
        assert "用户8(QQ:8)：哈哈" in (await talk.writer.next()).prompt


# ---- interrupts -------------------------------------------------------------------------------------------------


async def test_a_private_message_interrupts_and_both_are_answered(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        first = await talk.say("一")
        old = await talk.writer.next()
        old.write("我想")
        second = await talk.say("二")
        end = await first.end()
        assert (end.turn, end.outcome, end.reply) == (1, "superseded", "")
        new = await talk.writer.next()
        assert old.closed.is_set()
        new.write("好")
        new.finish()
        assert await anext(second) == TurnStarted(2, PRIVATE, (1, 2))
        assert (await second.end()).reply == "好"
        assert await talk.texts() == ["一", "二", ">好"]
        stopped, replied = await talk.turns()
        assert (stopped.end.outcome, stopped.end.completion_tokens) == ("superseded", 2)
        assert stopped.end.reply.startswith("我")
        assert (replied.end.outcome, replied.messages) == ("replied", (1, 2))
    assert "：一\n" in new.prompt
    assert new.prompt.endswith("：二⟨/⟩⟨assistant⟩")


class Reluctant(ScriptedWriter):
    """Needs a while to stop: until the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()

    async def stream(self, request: Request) -> AsyncGenerator[Item]:
        try:
            async with aclosing(super().stream(request)) as stream:
                async for item in stream:
                    yield item
        finally:
            await self.free.wait()


async def test_who_is_interrupted_is_told_at_once_and_the_new_turn_begins_after_the_old(tmp_path: Path) -> None:
    writer = Reluctant()
    async with open_talk(tmp_path, writer=writer) as talk:
        first = await talk.say("一")
        await writer.next()
        second = await talk.say("二")
        assert (await first.end()).outcome == "superseded"
        assert (await talk.turns())[0].ended_at is None
        assert len(writer.writings) == 1
        writer.free.set()
        assert await anext(second) == TurnStarted(2, PRIVATE, (1, 2))
        assert (await talk.turns())[0].end.outcome == "superseded"


async def test_an_interrupting_message_opens_a_new_window(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep) as talk:
        await talk.say("一")
        windows.close()
        await talk.writer.next()
        await talk.say("二")
        assert not await talk.chats.withdraw(PRIVATE, "m404")  # runs after the interrupt
        third = await talk.say("三")
        windows.close()
        assert await anext(third) == TurnStarted(2, PRIVATE, (1, 2, 3))


async def test_chatter_does_not_interrupt_and_is_read_next_time_after_the_reply(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        asked = await talk.say("小忆在吗", GROUP)
        writing = await talk.writer.next()
        for i in range(3):
            assert (await (await talk.say(f"闲聊{i}", GROUP, qq="8")).end()).outcome == "no_reply"
        writing.write("在")
        writing.finish()
        assert (await asked.end()).outcome == "replied"
        await talk.say("小忆，那走吧", GROUP)
        prompt = (await talk.writer.next()).prompt
        assert "：小忆在吗⟨/⟩⟨assistant⟩在⟨/⟩⟨user⟩[" in prompt
        assert prompt.index("⟨assistant⟩在") < prompt.index("闲聊0") < prompt.index("闲聊2") < prompt.index("那走吧")
        assert await talk.texts(GROUP) == ["小忆在吗", "闲聊0", "闲聊1", "闲聊2", ">在", "小忆，那走吧"]


async def test_an_addressed_message_interrupts_in_a_group(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        first = await talk.say("小忆，一", GROUP)
        await talk.writer.next()
        second = await talk.say("小忆，二", GROUP, qq="8")
        assert (await first.end()).outcome == "superseded"
        assert await anext(second) == TurnStarted(2, GROUP, (1, 2))


async def test_what_nobody_addressed_waits_for_an_answer_to_who_did(tmp_path: Path) -> None:
    async with open_talk(tmp_path, chat={"group_policy": "model"}) as talk:
        asked = await talk.say("小忆在吗", GROUP)
        writing = await talk.writer.next()
        chatter = [await talk.say(f"闲聊{i}", GROUP, qq="8") for i in range(3)]
        assert await chatter[0].end() == await chatter[1].end() == TurnEnded(None, GROUP, "superseded")
        writing.write("在")
        writing.finish()
        assert (await asked.end()).reply == "在"
        assert await anext(chatter[2]) == TurnStarted(2, GROUP, (2, 3, 4))
        prompt = (await talk.writer.next()).prompt
        assert "：小忆在吗⟨/⟩⟨assistant⟩在⟨/⟩⟨user⟩[" in prompt
        assert prompt.endswith("：闲聊2⟨/⟩⟨assistant⟩")


async def test_who_interrupts_takes_along_what_waits(tmp_path: Path) -> None:
    async with open_talk(tmp_path, chat={"group_policy": "model"}) as talk:
        asked = await talk.say("小忆在吗", GROUP)
        await talk.writer.next()
        chatter = [await talk.say(f"闲聊{i}", GROUP, qq="8") for i in range(2)]
        again = await talk.say("小忆？", GROUP)
        assert (await asked.end()).outcome == (await chatter[1].end()).outcome == "superseded"
        assert await anext(again) == TurnStarted(2, GROUP, (1, 2, 3, 4))


async def test_what_nobody_addressed_interrupts_an_answer_to_nobody(tmp_path: Path) -> None:
    async with open_talk(tmp_path, chat={"group_policy": "model"}) as talk:
        first = await talk.say("哈哈", GROUP)
        await talk.writer.next()
        second = await talk.say("呵呵", GROUP)
        assert (await first.end()).outcome == "superseded"
        assert await anext(second) == TurnStarted(2, GROUP, (1, 2))


async def test_interrupt_always_lets_anything_answerable_interrupt(tmp_path: Path) -> None:
    chat = {"group_policy": "model", "interrupt": "always"}
    async with open_talk(tmp_path, chat=chat) as talk:
        first = await talk.say("小忆在吗", GROUP)
        await talk.writer.next()
        await talk.say("哈哈", GROUP)
        assert (await first.end()).outcome == "superseded"


async def test_interrupt_never_lets_even_the_addressed_wait(tmp_path: Path) -> None:
    async with open_talk(tmp_path, chat={"interrupt": "never"}) as talk:
        first = await talk.say("小忆，一", GROUP)
        writing = await talk.writer.next()
        second = await talk.say("小忆，二", GROUP)
        writing.write("好")
        writing.finish()
        assert (await first.end()).outcome == "replied"
        assert await anext(second) == TurnStarted(2, GROUP, (2,))


async def test_a_turn_that_is_written_to_its_end_is_not_interrupted(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        first = await talk.say("一")
        writing = await talk.writer.next()
        writing.write("好")
        writing.finish()
        await writing.closed.wait()
        second = await talk.say("二")
        assert (await first.end()).outcome == "replied"
        assert await anext(second) == TurnStarted(2, PRIVATE, (2,))


async def test_a_group_and_a_person_of_one_number_never_meet(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        person, group = await talk.say("在吗", "private:7"), await talk.say("小忆在吗", "group:7")
        first, second = await talk.writer.next(), await talk.writer.next()
        assert {first.request.conversation, second.request.conversation} == {"private:7", "group:7"}
        for writing in (first, second):
            assert writing.prompt.count("在吗") == 1
            writing.write("在")
            writing.finish()
        assert (await person.end()).outcome == (await group.end()).outcome == "replied"
        assert await talk.texts("group:7") == ["小忆在吗", ">在"]


# ---- whether to answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("小忆在吗", {}),
        ("hi qqMEM!", {}),
        ("[CQ:at,qq=42] 在吗", {}),
        ("[CQ:at,qq=42,name=小忆] 在吗", {}),
        ("在吗", {"addressed": True}),
    ],
)
async def test_who_addresses_the_bot_is_answered(tmp_path: Path, text: str, more: dict[str, Any]) -> None:
    chat = {"self_id": "42", "names": ("小忆", "QQmem")}
    async with open_talk(tmp_path, script=lambda prompt: "在。", chat=chat) as talk:
        assert (await (await talk.say(text, GROUP, **more)).end()).outcome == "replied"


@pytest.mark.parametrize("text", ["在吗", "[CQ:at,qq=421] 在吗", "[CQ:at,qq=4] 在吗", "[CQ:at,qq=all]"])
async def test_who_does_not_address_the_bot_is_not(tmp_path: Path, text: str) -> None:
    async with open_talk(tmp_path, chat={"self_id": "42"}) as talk:
        assert await (await talk.say(text, GROUP)).end() == TurnEnded(None, GROUP, "no_reply")
        assert await talk.turns(GROUP) == []


async def test_without_a_number_of_its_own_no_at_is_for_the_bot(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        assert (await (await talk.say("[CQ:at,qq=] 在吗", GROUP)).end()).outcome == "no_reply"


@pytest.mark.parametrize(("draw", "outcome"), [(0.09, "replied"), (0.1, "no_reply")])
async def test_by_chance_some_others_are_answered(tmp_path: Path, draw: float, outcome: str) -> None:
    chat = {"group_policy": "probability", "reply_probability": 0.1}
    async with open_talk(tmp_path, script=lambda prompt: "嗯。", chat=chat, chance=lambda: draw) as talk:
        assert (await (await talk.say("哈哈", GROUP)).end()).outcome == outcome
        assert (await (await talk.say("小忆在吗", GROUP)).end()).outcome == "replied"


@pytest.mark.parametrize(
    ("hours", "is_quiet"),
    [((0, 1), True), ((-1, 0), False), ((-1, 1), True), ((1, 0), False), ((0, -1), True), ((0, 0), False)],
)
@pytest.mark.parametrize("own", [False, True])
async def test_in_quiet_hours_only_who_speaks_to_the_bot_is_answered(
    tmp_path: Path, hours: tuple[int, int], is_quiet: bool, own: bool
) -> None:
    start, end = (f"{(NOW + timedelta(hours=hour)).astimezone():%H:%M}" for hour in hours)
    quiet: dict[str, Any] = {"quiet_hours": f"{start}-{end}"}
    chat = {"group_policy": "model", **({"groups": {7: quiet}} if own else quiet)}
    async with open_talk(tmp_path, script=lambda prompt: "嗯。", chat=chat) as talk:
        assert (await (await talk.say("哈哈", GROUP)).end()).outcome == ("no_reply" if is_quiet else "replied")
        assert (await (await talk.say("小忆在吗", GROUP)).end()).outcome == "replied"
        assert (await (await talk.say("哈哈", PRIVATE)).end()).outcome == "replied"


async def test_a_group_may_have_its_own_ways(tmp_path: Path) -> None:
    chat = {
        "group_policy": "probability",
        "reply_probability": 0.9,
        "quiet_hours": "00:00-23:59",
        "groups": {7: {"reply_probability": 0.1, "quiet_hours": ""}, "8": {"quiet_hours": ""}},
    }
    async with open_talk(tmp_path, script=lambda prompt: "嗯。", chat=chat, chance=lambda: 0.5) as talk:
        outcomes = [(await (await talk.say("哈哈", group)).end()).outcome for group in (GROUP, "group:8", "group:9")]
        assert outcomes == ["no_reply", "replied", "no_reply"], "too seldom, often enough, and at a quiet hour"


async def test_the_model_may_decline_and_its_silence_is_remembered(tmp_path: Path) -> None:
    def script(prompt: str) -> str:
        return "在。" if "在吗" in prompt else "<no_reply>"

    async with open_talk(tmp_path, script=script, chat={"group_policy": "model"}) as talk:
        reply = await talk.say("哈哈", GROUP)
        end = (await events(reply))[-1]
        assert (end.turn, end.outcome, end.reply) == (1, "no_reply", "")
        assert not [event for event in talk.events if isinstance(event, Token)]
        assert await talk.texts(GROUP) == ["哈哈", ">"]
        assert (await (await talk.say("小忆在吗", GROUP)).end()).outcome == "replied"
    assert "⟨assistant⟩<no_reply>⟨/⟩" in talk.writer.writings[1].prompt
    assert "只写 <no_reply>" in talk.writer.writings[0].prompt


@pytest.mark.parametrize("thinks", [False, True])
async def test_auto_leaves_it_to_a_model_that_thinks(tmp_path: Path, thinks: bool) -> None:
    async with open_talk(tmp_path, thinks=thinks, script=lambda prompt: "想</think>好。") as talk:
        await (await talk.say("小忆在吗", GROUP)).end()
        assert (await (await talk.say("哈哈", GROUP)).end()).outcome == ("replied" if thinks else "no_reply")
    assert ("只写 <no_reply>" in talk.writer.writings[0].prompt) is thinks


async def test_private_chats_never_hear_of_silence(tmp_path: Path) -> None:
    async with open_talk(tmp_path, script=lambda prompt: "在。", chat={"group_policy": "model"}) as talk:
        await (await talk.say("在吗")).end()
    assert "no_reply" not in talk.writer.writings[0].prompt


# ---- before the model is there ----------------------------------------------------------------------------------


async def test_messages_are_stored_while_the_model_loads_and_answered_then(tmp_path: Path) -> None:
    loaded = asyncio.Event()

    async def loading() -> Tokenizer:
        await loaded.wait()
        return CharTokenizer()

    async with open_talk(tmp_path, tokenizer=loading, script=lambda prompt: "来了。") as talk:
        first = await talk.say("一")
        second = await talk.say("二")
        assert (await first.end()).outcome == "superseded"
        assert (await (await talk.say("哈哈", GROUP)).end()).outcome == "no_reply"
        assert await talk.texts() == ["一", "二"]
        loaded.set()
        assert (await second.end()).reply == "来了。"


async def test_a_model_that_cannot_be_loaded_fails_every_turn_with_its_sentence(tmp_path: Path) -> None:
    async def broken() -> Tokenizer:
        raise ModelError("The model is broken; pull it again.")

    async with open_talk(tmp_path, tokenizer=broken) as talk:
        for _ in range(2):
            end = await (await talk.say("在吗")).end()
            assert (end.outcome, end.error) == ("failed", "The model is broken; pull it again.")
        assert (await (await talk.say("哈哈", GROUP)).end()).outcome == "no_reply"
        assert await talk.outcomes() == ["failed", "failed"]


# ---- the history in the prompt ----------------------------------------------------------------------------------


async def test_a_long_history_is_cut_in_blocks(tmp_path: Path) -> None:
    chat = {"history_messages": 12, "prompt_order": ("persona",)}
    async with open_talk(tmp_path, script=lambda prompt: "嗯", chat=chat) as talk:
        for i in range(40):
            await (await talk.say(f"第{i}条")).end()
    prompts = [writing.prompt for writing in talk.writer.writings]
    kept = [prompt.count("条⟨/⟩") + prompt.count("嗯⟨/⟩") for prompt in prompts]
    assert max(kept) <= 12
    cut = [not new.startswith(old.removesuffix("⟨assistant⟩")) for old, new in pairwise(prompts)]
    assert 3 <= sum(cut) <= 40 * 2 // 4
    assert all(prompt.count("第") >= 3 for prompt in prompts[3:])
