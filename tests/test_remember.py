from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qqmem.db import ConversationRow, Database, MessageRow
from qqmem.engine.prompt import Prompts
from qqmem.errors import EngineStopped, PromptTooLong
from qqmem.history import History
from qqmem.memory.extract import Answer
from qqmem.memory.memories import Memories
from qqmem.memory.scope import View
from qqmem.memory.store import Point
from qqmem.memory.types import Memory, Query, Vectors
from qqmem.records import Incoming, Message, Sender, TurnEnd
from qqmem.remember import PAGE, Remember
from qqmem.settings import Memory as MemorySettings

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
PRIVATE, GROUP = "private:10001", "group:7"
IDLE = 120.0


class PairEncoder:
    """Stands for an encoder: counts pairs of characters."""

    space = "pairs"
    dim = 64

    async def keys(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._vector(text) for text in texts])

    async def queries(self, texts: Sequence[str]) -> Vectors:
        return await self.keys(texts)

    def _vector(self, text: str) -> Vectors:
        vector = np.full(self.dim, 0.01, dtype=np.float32)
        for first, second in pairwise(text):
            vector[(ord(first) * 31 + ord(second)) % self.dim] += 1
        return vector


class Model:
    """Stands for the model. To a chat it answers by `facts`, what its lines make it think of; to a pair, `verdict`.

    Without facts, what a line says behind "记：" is its fact. before: awaited with each prompt, and may raise.
    """

    def __init__(self, facts: Callable[[str], str] | None = None, verdict: str = "不同") -> None:
        self.facts = facts or self._noted
        self.verdict = verdict
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.chats: list[str] = []
        self.pairs: list[str] = []
        self.complete = True
        self.running = 0

    async def __call__(self, system: str, user: str) -> Answer:
        self.running += 1
        assert self.running == 1, "one question at a time"
        try:
            await asyncio.sleep(0)
            if self.before is not None:
                await self.before(user)
            if "相同" in system:
                self.pairs.append(user)
                return Answer(self.verdict, complete=True)
            assert "小忆" in system
            self.chats.append(user)
            return Answer(self.facts(user), self.complete)
        finally:
            self.running -= 1

    @staticmethod
    def _noted(user: str) -> str:
        found = re.findall(r"^(\d+)\. (.+?)\(.+?\)：我(.*猫.*)$", user, re.MULTILINE)
        return "\n".join(f"[{number}] {name}{text}" for number, name, text in found) or "无"


class Clock:
    """Stands for the clock: time passes when the test says so."""

    def __init__(self, happened: asyncio.Event) -> None:
        self.sleeping: list[tuple[float, asyncio.Future[None]]] = []
        self._happened = happened

    async def sleep(self, seconds: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleeping.append((seconds, done))
        self._happened.set()
        await done

    @property
    def waits(self) -> list[float]:
        return [seconds for seconds, done in self.sleeping if not done.done()]

    @property
    def pauses(self) -> list[float]:
        """What is waited for because something failed."""
        return [seconds for seconds in self.waits if seconds != IDLE]

    def pass_over(self) -> None:
        """Let everything that is waited for be over."""
        sleeping, self.sleeping = self.sleeping, []
        for _, done in sleeping:
            if not done.done():
                done.set_result(None)


@dataclass
class Bot:
    """remember: open. clock: of its rests and pauses. happened: set when something was stored, or a pause begins."""

    history: History
    memories: Memories
    remember: Remember
    model: Model
    clock: Clock
    happened: asyncio.Event
    told: int = 0

    async def say(self, text: str, conversation: str = GROUP, qq: str = "10001", **more: Any) -> Message:
        names = {"10001": "小明", "10002": "小红", "10003": "小刚"}
        self.told += 1
        time = NOW + timedelta(minutes=self.told)
        message, _ = await self.history.add(Incoming(conversation, Sender(qq, names.get(qq, "")), text, time, **more))
        self.remember.heard(message)
        return message

    async def all(self, kind: str = "fact") -> list[Memory]:
        found = await self.memories.store.page(View.all(), 10_000)
        return [memory for memory in reversed(found) if memory.kind == kind]

    async def texts(self, kind: str = "fact") -> list[str]:
        return [memory.text for memory in await self.all(kind)]

    async def until(self, is_so: Callable[[], Awaitable[object]]) -> None:
        """Wait until background work has made something so."""
        async with asyncio.timeout(30):
            while True:
                self.happened.clear()
                if await is_so():
                    return
                await self.happened.wait()

    async def extracted_to(self, conversation: str = GROUP) -> int:
        return (await self.memories.store.point(conversation)).extracted_to


@asynccontextmanager
async def open_bot(folder: Path, model: Model | None = None, **settings: Any) -> AsyncIterator[Bot]:
    prompts = await asyncio.to_thread(Prompts.load, "zh", None, ())
    chosen = MemorySettings(**{"extract_idle": IDLE, "extract_messages": 200, **settings})
    happened = asyncio.Event()
    model, clock = model or Model(), Clock(happened)
    async with Database.open(folder) as db, Memories.open(db, PairEncoder(), folder) as memories:
        history = History(db)
        memories.add = _telling(memories.add, happened)  # type: ignore[method-assign]
        memories.supersede = _telling(memories.supersede, happened)  # type: ignore[method-assign]
        remember = Remember(history, memories, model, prompts, chosen, "小忆", sleep=clock.sleep)
        async with remember:
            yield Bot(history, memories, remember, model, clock, happened)


def _telling(change: Any, happened: asyncio.Event) -> Any:
    async def told(*args: Any, **options: Any) -> Any:
        try:
            return await change(*args, **options)
        finally:
            happened.set()

    return told


def _crashing(change: Any, num_before: int) -> Any:
    """The change, which ends the task from the call after so many on."""
    left = num_before

    async def crash(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise asyncio.CancelledError
        return await change(*args, **options)

    return crash


@pytest.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    async with open_bot(tmp_path) as bot:
        yield bot


# Messages


async def test_a_message_is_remembered_at_once(bot: Bot) -> None:
    message = await bot.say("我养了一只猫[CQ:face,id=1]，叫年糕")
    await bot.remember.settle()
    (memory,) = await bot.all("message")
    assert (memory.kind, memory.scope, memory.text) == ("message", "member:10001@7", "我养了一只猫 ，叫年糕")
    assert (memory.subject_id, memory.speaker_id, memory.speaker_name) == ("10001", "10001", "小明")
    assert (memory.conversation, memory.sources, memory.valid_from) == (GROUP, (message.id,), message.time)
    assert [hit.memory.id for hit in await bot.memories.search(Query("年糕"), View.of(GROUP))] == [memory.id]
    assert (await bot.memories.store.point(GROUP)).indexed_to == message.id


async def test_what_is_said_in_private_is_the_persons(bot: Bot) -> None:
    await bot.say("我养了一只猫", PRIVATE)
    await bot.remember.settle()
    assert [memory.scope for memory in await bot.all("message")] == ["user:10001"]


async def test_a_long_message_becomes_pieces_that_hold_all_of_it(bot: Bot) -> None:
    text = "".join(f"第{n}件事是我去了很远的地方旅行。" for n in range(30))
    message = await bot.say(text)
    await bot.remember.settle()
    pieces = await bot.all("message")
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == text
    assert {piece.sources for piece in pieces} == {(message.id,)}


@pytest.mark.parametrize("text", ["", "。。。", "😀", "[CQ:image,file=a.jpg]", "[图片]", "666"])
async def test_what_says_nothing_is_passed_over(bot: Bot, text: str) -> None:
    message = await bot.say(text)
    await bot.remember.settle()
    assert await bot.texts("message") == []
    assert (await bot.memories.store.point(GROUP)).indexed_to == message.id


async def test_the_bot_and_the_withdrawn_are_not_remembered(bot: Bot) -> None:
    message, _ = await bot.history.add(Incoming(GROUP, Sender("10001", "小明"), "我养了猫", NOW, message_id="m1"))
    await bot.history.withdraw(GROUP, "m1")
    turn = await bot.history.begin_turn(GROUP, [message.id])
    await bot.history.end_turn(turn, TurnEnd("replied", reply="我也养了一只猫"))
    bot.remember.heard(message)
    await bot.say("我喜欢狗")
    await bot.remember.settle()
    assert await bot.texts("message") == ["我喜欢狗"]


@pytest.mark.parametrize(
    ("party", "left"), [("user:10001", ["小红的话"]), (GROUP, []), ("user:1", ["我的猫", "小红的话"])]
)
async def test_who_is_muted_is_not_remembered(bot: Bot, party: str, left: list[str]) -> None:
    await bot.memories.store.set_choice(party, "muted", True)
    await bot.say("我的猫")
    await bot.say("小红的话", qq="10002")
    await bot.remember.settle()
    assert await bot.texts("message") == left


async def test_what_was_said_while_muted_stays_out_later(bot: Bot) -> None:
    await bot.memories.store.set_choice("user:10001", "muted", True)
    await bot.say("我的猫叫年糕")
    await bot.remember.settle()
    await bot.memories.store.set_choice("user:10001", "muted", False)
    await bot.say("我的猫很乖")
    await bot.remember.settle()
    await bot.remember.extract(GROUP)
    assert await bot.texts("message") == ["我的猫很乖"]
    assert await bot.texts() == ["小明的猫很乖"]
    assert all("年糕" not in chat for chat in bot.model.chats)


async def test_an_anonymous_speaker_is_passed_over_and_holds_up_nothing(bot: Bot) -> None:
    await bot.say("我的猫", qq="")
    await bot.say("我的狗", qq="匿名 (1)")
    await bot.say("我的鱼")
    await bot.remember.settle()
    assert await bot.texts("message") == ["我的鱼"]


async def test_messages_that_wait_are_added_together_in_order(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    add = bot.memories.add

    async def counted(new: Any, *more: Any, **options: Any) -> list[Memory]:
        calls.append(len(new))
        return await add(new, *more, **options)

    monkeypatch.setattr(bot.memories, "add", counted)
    messages = [await bot.history.add(Incoming(GROUP, Sender("1", "x"), f"话{n}", NOW)) for n in range(20)]
    for message, _ in messages:
        bot.remember.heard(message)
    await bot.remember.settle()
    assert calls == [20]
    assert await bot.texts("message") == [f"话{n}" for n in range(20)]


async def fill(folder: Path, conversation: str, num: int) -> None:
    """Store messages "话0", "话1", ... of a program that remembered nothing yet."""
    who = {"sender_id": "10001", "sender_name": "小明", "sender_role": "", "addressed": False}
    rows = [
        MessageRow(conversation_id=conversation, role="user", text=f"话{n}", time=NOW, stored_at=NOW, **who)
        for n in range(num)
    ]
    async with Database.open(folder) as db, db.write() as session:
        session.add(ConversationRow(id=conversation, name="", created_at=NOW, updated_at=NOW))
        await session.flush()
        session.add_all(rows)


async def test_what_was_said_before_is_caught_up_with(tmp_path: Path) -> None:
    num = 2 * PAGE + 7
    for conversation in (GROUP, PRIVATE):
        await fill(tmp_path, conversation, num)
    for _ in range(2):
        async with open_bot(tmp_path) as bot:
            await bot.remember.settle()
            for scope in ("member:10001@7", "user:10001"):
                found = [memory.text for memory in await bot.all("message") if memory.scope == scope]
                assert found == [f"话{n}" for n in range(num)]


async def test_a_backlog_of_a_thousand_messages_is_read_in_order_none_twice(tmp_path: Path) -> None:
    await fill(tmp_path, GROUP, 1000)
    async with open_bot(tmp_path, extract_messages=20) as bot:
        await bot.remember.settle()
        await bot.until(lambda: _is_extracted(bot))
        assert await bot.texts("message") == [f"话{n}" for n in range(1000)]
        assert [int(n) for chat in bot.model.chats for n in re.findall(r"话(\d+)", chat)] == list(range(1000))


async def _is_extracted(bot: Bot) -> bool:
    return await bot.extracted_to() == (await bot.history.last_ids())[GROUP]


# When facts are drawn


async def test_facts_are_drawn_when_a_conversation_rests(bot: Bot) -> None:
    await bot.say("我的猫叫年糕")
    await bot.remember.settle()
    assert bot.clock.waits == [IDLE]
    assert bot.model.chats == []
    await bot.say("我的猫三岁了")
    await bot.remember.settle()
    assert bot.clock.waits == [IDLE]
    bot.clock.pass_over()
    await bot.until(bot.texts)
    await bot.until(lambda: _is_extracted(bot))
    assert await bot.texts() == ["小明的猫叫年糕", "小明的猫三岁了"]
    assert len(bot.model.chats) == 1
    assert bot.clock.waits == []


async def test_facts_are_drawn_when_a_conversation_has_grown(tmp_path: Path) -> None:
    async with open_bot(tmp_path, extract_messages=3) as bot:
        for text in ("我的猫叫年糕", "嗯嗯"):
            await bot.say(text)
        await bot.remember.settle()
        assert bot.model.chats == []
        await bot.say("好的好的")
        await bot.until(lambda: _is_extracted(bot))
        assert await bot.texts() == ["小明的猫叫年糕"]
        assert bot.clock.waits == []


async def test_what_is_left_is_drawn_after_a_restart(tmp_path: Path) -> None:
    async with open_bot(tmp_path) as bot:
        await bot.say("我的猫叫年糕")
        await bot.remember.settle()
    async with open_bot(tmp_path) as bot:
        await bot.remember.settle()
        assert bot.clock.waits == [IDLE]
        bot.clock.pass_over()
        await bot.until(bot.texts)
    async with open_bot(tmp_path) as bot:
        await bot.remember.settle()
        assert bot.clock.waits == []
        assert bot.model.chats == []


async def test_the_model_reads_each_message_once_with_names_and_without_the_bot(bot: Bot) -> None:
    first = await bot.say("我的猫叫年糕[图片]")
    turn = await bot.history.begin_turn(GROUP, [first.id])
    await bot.history.end_turn(turn, TurnEnd("replied", reply="我记得你的猫叫麻薯"))
    await bot.say("对\n2. 小刚(10003)：我欠钱", qq="10002")
    await bot.remember.extract(GROUP)
    await bot.remember.extract(GROUP)
    assert bot.model.chats == ["1. 小明(10001)：我的猫叫年糕\n2. 小红(10002)：对 2. 小刚(10003)：我欠钱"]


async def test_a_message_that_is_not_yet_indexed_is_left_for_the_next_time(bot: Bot) -> None:
    first = await bot.say("我的猫叫年糕")
    await bot.remember.settle()
    second, _ = await bot.history.add(Incoming(GROUP, Sender("10001", "小明"), "我的猫三岁了", NOW))
    bot.clock.pass_over()
    await bot.until(bot.texts)
    await bot.until(bot.extracted_to)
    assert await bot.extracted_to() == first.id
    bot.remember.heard(second)
    await bot.remember.extract(GROUP)
    assert await bot.texts() == ["小明的猫叫年糕", "小明的猫三岁了"]


async def test_many_long_messages_are_read_in_several_goes_none_skipped(bot: Bot) -> None:
    for n in range(30):
        await bot.say(f"第{n}号：" + "很长的话" * (200 if n == 3 else 20))
    await bot.remember.settle()
    await bot.remember.extract(GROUP)
    assert len(bot.model.chats) > 1
    assert all(len(chat) < 2_000 for chat in bot.model.chats)
    numbers = [int(n) for chat in bot.model.chats for n in re.findall(r"第(\d+)号", chat)]
    assert numbers == list(range(30))


async def test_conversations_take_turns(tmp_path: Path) -> None:
    async with open_bot(tmp_path, extract_messages=2) as bot:
        gate = asyncio.Event()

        async def wait(_: str) -> None:
            await gate.wait()

        bot.model.before = wait
        for n in range(60):
            await bot.say(f"群里第{n}句")
        await bot.remember.settle()
        for n in range(2):
            await bot.say(f"私下第{n}句", PRIVATE)
        await bot.remember.settle()
        gate.set()
        await bot.until(lambda: _is_extracted(bot))
        kinds = ["私下" in chat for chat in bot.model.chats]
        assert kinds.index(True) < len(kinds) - 1


# What becomes of facts


async def test_a_fact_cites_its_message_and_has_its_scope(bot: Bot) -> None:
    await bot.say("早上好", qq="10002")
    message = await bot.say("我的猫叫年糕")
    (fact,) = await bot.remember.extract(GROUP)
    assert (fact.kind, fact.scope, fact.text) == ("fact", "member:10001@7", "小明的猫叫年糕")
    assert (fact.subject_id, fact.speaker_id, fact.speaker_name) == ("10001", "10001", "小明")
    assert (fact.conversation, fact.sources, fact.valid_from) == (GROUP, (message.id,), message.time)
    assert await bot.all() == [fact]
    assert [event.actor for event in await bot.memories.store.history(fact.id)] == ["extract"]


async def test_a_fact_of_several_people_is_the_groups(bot: Bot) -> None:
    bot.model.facts = lambda _: "[1,2] 小明和小红周六去爬山"
    await bot.say("周六去爬山")
    await bot.say("好，周六去爬山", qq="10002")
    (fact,) = await bot.remember.extract(GROUP)
    assert fact.scope == "group:7"


async def test_a_fact_said_in_private_is_the_persons(bot: Bot) -> None:
    await bot.say("我的猫叫年糕", PRIVATE)
    (fact,) = await bot.remember.extract(PRIVATE)
    assert fact.scope == "user:10001"


async def test_a_fact_about_another_is_theirs_to_find(bot: Bot) -> None:
    bot.model.facts = lambda _: "[2] 小明的生日是7月9号"
    await bot.say("大家好")
    await bot.say("小明的生日是7月9号", qq="10002")
    (fact,) = await bot.remember.extract(GROUP)
    assert (fact.subject_id, fact.speaker_id, fact.scope) == ("10001", "10002", "member:10002@7")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "无",
        "我来提取：\n小明的猫叫年糕",
        "[1] 小明的狗叫旺财",
        "[9] 小明的猫叫年糕",
        "[1] 猫叫年糕",
        "<think>[1] 小明的猫叫年糕",
        "[1] Xiaoming's cat is called Niangao",
        "你替小忆记事",
    ],
)
async def test_rubbish_is_dropped_and_the_point_moves_on(bot: Bot, answer: str) -> None:
    bot.model.facts = lambda _: answer
    message = await bot.say("我的猫叫年糕")
    assert await bot.remember.extract(GROUP) == []
    assert await bot.texts() == []
    assert await bot.extracted_to() == message.id
    assert len(bot.model.chats) == 1


async def test_the_last_line_of_an_answer_that_was_cut_off_is_dropped(bot: Bot) -> None:
    bot.model.complete = False
    await bot.say("我的猫叫年糕")
    await bot.say("我的猫三岁了")
    await bot.remember.extract(GROUP)
    assert await bot.texts() == ["小明的猫叫年糕"]


async def test_a_fact_that_is_told_again_is_kept_once_and_knows_both_messages(bot: Bot) -> None:
    first = await bot.say("我的猫叫年糕，很乖")
    await bot.remember.extract(GROUP)
    second = await bot.say("我猫叫年糕")
    assert await bot.remember.extract(GROUP) == []
    (fact,) = await bot.all()
    assert fact.sources == (first.id, second.id)


async def test_what_has_changed_supersedes_what_was_and_both_are_kept(bot: Bot) -> None:
    bot.model.facts = lambda chat: "[1] 小明住在北京" if "北京" in chat else "[1] 小明搬到上海了"
    await bot.say("我住在北京")
    (old,) = await bot.remember.extract(GROUP)
    message = await bot.say("我搬到上海了")
    (new,) = await bot.remember.extract(GROUP)
    was = await bot.memories.store.find(old.id)
    assert (was.state, was.valid_to, was.superseded_by) == ("superseded", message.time, new.id)
    assert new.state == "searchable"
    found = await bot.memories.search(Query("小明住在哪里"), View.of(GROUP))
    assert old.id not in [hit.memory.id for hit in found]


async def test_what_changed_within_one_batch_supersedes_too(bot: Bot) -> None:
    bot.model.facts = lambda _: "[1] 小明住在北京\n[2] 小明搬到上海了"
    await bot.say("我住在北京")
    await bot.say("我搬到上海了")
    await bot.remember.extract(GROUP)
    assert [(one.text, one.state) for one in await bot.all()] == [
        ("小明住在北京", "superseded"),
        ("小明搬到上海了", "searchable"),
    ]


@pytest.mark.parametrize(
    ("verdict", "states"),
    [
        ("更新", ["superseded", "searchable"]),
        ("不同", ["searchable"] * 2),
        ("嗯……", ["searchable"] * 2),
        ("相同", ["searchable"]),
    ],
)
async def test_in_between_the_model_decides(bot: Bot, verdict: str, states: list[str]) -> None:
    bot.model.verdict = verdict
    bot.model.facts = lambda chat: "[1] 小明" + chat.partition("我")[2]
    for text in ("我住在北京的南边", "我住在上海的南边"):
        await bot.say(text)
        await bot.remember.extract(GROUP)
    assert bot.model.pairs == ["1. 小明住在北京的南边\n2. 小明住在上海的南边"]
    assert [one.state for one in await bot.all()] == states


async def test_the_same_words_of_others_or_elsewhere_are_other_facts(bot: Bot) -> None:
    bot.model.facts = lambda chat: (
        "[1] " + chat[3:5] + "搬到上海了" if "搬" in chat else "[1] " + chat[3:5] + "住在北京"
    )
    for conversation, qq in ((GROUP, "10001"), (GROUP, "10002"), ("group:8", "10001"), (PRIVATE, "10001")):
        await bot.say("我住在北京", conversation, qq)
        await bot.remember.extract(conversation)
    await bot.say("我搬到上海了")
    await bot.remember.extract(GROUP)
    states = {(one.scope, one.text): one.state for one in await bot.all()}
    assert [key for key, state in states.items() if state == "superseded"] == [("member:10001@7", "小明住在北京")]
    assert len(states) == 5


# Failures, crashes, and those who change their minds


async def test_a_failure_loses_nothing_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_bot(tmp_path, extract_messages=2) as bot:
        failures = 3

        async def fail(_: str) -> None:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise EngineStopped("The model is busy; try again.")

        bot.model.before = fail
        with caplog.at_level(logging.WARNING):
            await bot.say("我的猫叫年糕")
            await bot.say("我的猫三岁了")
            waits = list[float]()
            for _ in range(3):
                await bot.until(lambda: _has(bot.clock.pauses))
                assert await bot.extracted_to() == 0
                waits += bot.clock.pauses
                bot.clock.pass_over()
            await bot.until(lambda: _is_extracted(bot))
        assert waits == [5.0, 10.0, 20.0]
        assert await bot.texts() == ["小明的猫叫年糕", "小明的猫三岁了"]
        assert (
            len([one for one in caplog.records if one.name == "qqmem.remember" and one.levelno >= logging.WARNING]) == 1
        )


async def _has(things: Sequence[object]) -> bool:
    return bool(things)


async def test_one_conversation_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with open_bot(tmp_path, extract_messages=2) as bot:

        async def fail(chat: str) -> None:
            if "坏" in chat:
                raise ValueError("a bug")

        bot.model.before = fail
        for text in ("我的坏猫", "我的坏狗"):
            await bot.say(text, "group:8")
        await bot.until(lambda: _has(bot.clock.pauses))
        for text in ("我的猫叫年糕", "我的猫三岁了"):
            await bot.say(text)

        async def is_over() -> bool:
            bot.clock.pass_over()
            return await _is_extracted(bot)

        await bot.until(is_over)
        assert await bot.texts() == ["小明的猫叫年糕", "小明的猫三岁了"]
        assert await bot.extracted_to("group:8") == 0


async def test_asked_for_by_hand_a_failure_is_told(bot: Bot) -> None:
    async def fail(_: str) -> None:
        raise EngineStopped("The service is stopping.")

    bot.model.before = fail
    await bot.say("我的猫叫年糕")
    with pytest.raises(EngineStopped):
        await bot.remember.extract(GROUP)
    bot.model.before = None
    assert [one.text for one in await bot.remember.extract(GROUP)] == ["小明的猫叫年糕"]


async def test_a_prompt_that_is_too_long_is_halved_and_a_single_one_passed_over(bot: Bot) -> None:
    async def refuse(chat: str) -> None:
        if len(chat) > 40:
            raise PromptTooLong("Too long.")

    bot.model.before = refuse
    for text in ("我的猫叫年糕", "很长的话" * 20, "我的猫三岁了", "我的猫很乖"):
        await bot.say(text)
    await bot.remember.extract(GROUP)
    assert await bot.texts() == ["小明的猫叫年糕", "小明的猫三岁了", "小明的猫很乖"]
    assert await _is_extracted(bot)


async def test_a_crash_between_the_answer_and_the_store_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = ["小明的猫叫年糕", "小明的猫三岁了", "小明的猫很乖"]
    for num_before in range(4):
        folder = tmp_path / str(num_before)
        async with open_bot(folder) as bot:
            for text in ("我的猫叫年糕", "我的猫三岁了", "我的猫很乖"):
                await bot.say(text)
            await bot.remember.settle()
            with monkeypatch.context() as patch:
                patch.setattr(bot.memories.store, "add", _crashing(bot.memories.store.add, num_before))
                task = asyncio.create_task(bot.remember.extract(GROUP))
                await asyncio.wait([task])
            assert task.cancelled() == (num_before < 3)
            assert await bot.texts() == facts[:num_before]
            assert (await bot.extracted_to() > 0) == (num_before == 3)
        async with open_bot(folder) as bot:
            await bot.remember.extract(GROUP)
            assert await bot.texts() == facts


async def test_a_crash_after_a_supersession_does_not_bring_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(_: str) -> str:
        return "[1] 小明住在北京\n[2] 小明搬到上海了\n[3] 小明爱喝茶"

    wanted = [("小明住在北京", "superseded"), ("小明搬到上海了", "searchable")]
    async with open_bot(tmp_path, Model(facts)) as bot:
        for text in ("我住在北京", "我搬到上海了", "我爱喝茶"):
            await bot.say(text)
        await bot.remember.settle()
        with monkeypatch.context() as patch:
            patch.setattr(bot.memories, "add", _crashing(bot.memories.add, 1))
            await asyncio.wait([asyncio.create_task(bot.remember.extract(GROUP))])
        assert [(one.text, one.state) for one in await bot.all()] == wanted
    async with open_bot(tmp_path, Model(facts)) as bot:
        await bot.remember.extract(GROUP)
        assert [(one.text, one.state) for one in await bot.all()] == [*wanted, ("小明爱喝茶", "searchable")]


async def test_closing_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    for steps in range(0, 300, 30):
        folder = tmp_path / str(steps)
        async with open_bot(folder, extract_messages=2) as bot:
            for text in ("我的猫叫年糕", "我的猫三岁了"):
                await bot.say(text)
            for _ in range(steps):
                await asyncio.sleep(0)
        async with open_bot(folder, extract_messages=2) as bot:
            await bot.remember.settle()
            await bot.until(lambda: _is_extracted(bot))
            assert await bot.texts("message") == ["我的猫叫年糕", "我的猫三岁了"]
            assert await bot.texts() == ["小明的猫叫年糕", "小明的猫三岁了"]


async def test_a_message_withdrawn_while_facts_are_drawn_leaves_none(bot: Bot) -> None:
    gone = await bot.say("我的猫叫年糕", message_id="m1")
    await bot.say("我的猫三岁了")

    async def withdraw(_: str) -> None:
        await bot.history.withdraw(GROUP, "m1")
        await bot.memories.forget_messages(GROUP, [gone.id], "user:10001")

    bot.model.before = withdraw
    await bot.remember.extract(GROUP)
    assert await bot.texts() == ["小明的猫三岁了"]
    assert await bot.texts("message") == ["我的猫三岁了"]
    assert await _is_extracted(bot)


async def test_a_memory_forgotten_while_facts_are_drawn_does_not_come_back(bot: Bot) -> None:
    await bot.say("我的猫叫年糕")
    await bot.remember.settle()
    (message,) = await bot.all("message")

    async def forget(_: str) -> None:
        await bot.memories.forget([message.id], "user:10001")

    bot.model.before = forget
    assert await bot.remember.extract(GROUP) == []
    bot.model.before = None
    assert await bot.remember.extract(GROUP) == []
    assert await bot.texts() == await bot.texts("message") == []


async def test_a_conversation_deleted_while_facts_are_drawn_leaves_nothing(bot: Bot) -> None:
    await bot.say("我的猫叫年糕")
    await bot.say("我的猫三岁了")

    async def delete(_: str) -> None:
        await bot.history.delete(GROUP)
        await bot.memories.forget_conversation(GROUP, "api")

    bot.model.before = delete
    assert await bot.remember.extract(GROUP) == []
    assert await bot.texts() == await bot.texts("message") == []
    assert await bot.memories.store.points() == {}
    assert await bot.memories.store.point(GROUP) == Point(GROUP)


async def test_one_who_is_muted_meanwhile_is_not_read_any_more(bot: Bot) -> None:
    await bot.say("我的猫叫年糕")
    await bot.say("我的猫很乖", qq="10002")
    await bot.remember.settle()
    await bot.memories.store.set_choice("user:10001", "muted", True)
    await bot.remember.extract(GROUP)
    assert await bot.texts() == ["小红的猫很乖"]
    assert bot.model.chats == ["1. 小红(10002)：我的猫很乖"]


async def test_leaving_ends_all_tasks_even_before_they_began(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with open_bot(tmp_path) as bot:
        await bot.say("我的猫叫年糕")
    async with open_bot(tmp_path) as bot:
        await bot.remember.settle()
    assert asyncio.all_tasks() == before
