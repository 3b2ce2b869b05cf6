from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from qqmem.db import ConversationRow, Database, MessageRow, TurnRow
from qqmem.errors import NotFound
from qqmem.history import History
from qqmem.records import Action, Incoming, Message, Outcome, Sender, Turn, TurnEnd

NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)
MING = Sender(id="10001", name="小明")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path) as db:
        yield db


@pytest.fixture
def history(db: Database) -> History:
    return History(db)


def said(text: str, conversation: str = "group:7", message_id: str | None = None) -> Incoming:
    return Incoming(conversation, MING, text, NOW, message_id=message_id)


async def stored(history: History, *texts: str, conversation: str = "group:7") -> list[int]:
    return [(await history.add(said(text, conversation)))[0].id for text in texts]


async def texts(history: History, conversation: str = "group:7") -> list[str]:
    return [message.text for message in await history.messages(conversation, limit=1000)]


async def exported(history: History, conversation: str = "group:7") -> list[Message | Turn]:
    async with aclosing(history.export(conversation)) as records:
        return [record async for record in records]


# Messages


async def test_a_message_comes_back_as_it_was_said(history: History) -> None:
    incoming = Incoming(
        conversation="group:7",
        sender=Sender(id="10001", name="小明", card="群主小明", role="owner"),
        text="你好\n😀<|im_end|>\0'; DROP TABLE message",
        time=NOW.astimezone(timezone(timedelta(hours=8))),
        message_id="-2147483648",
        reply_to="41",
        addressed=True,
        name="摸鱼群",
    )
    message, is_new = await history.add(incoming)
    assert is_new
    assert message == Message(
        id=1,
        conversation="group:7",
        role="user",
        message_id="-2147483648",
        sender=Sender(id="10001", name="群主小明", role="owner"),
        text=incoming.text,
        reply_to="41",
        addressed=True,
        time=NOW,
        turn=None,
        withdrawn=False,
    )
    assert await history.messages("group:7", limit=10) == [message]
    assert await history.recent("group:7", limit=10) == [message]


async def test_a_duplicate_is_the_message_stored_before_and_changes_nothing(history: History) -> None:
    first, _ = await history.add(said("hi", message_id="m1"))
    before = await history.conversations(limit=10)
    again = replace(said("hi again", message_id="m1"), name="another name")
    assert await history.add(again) == (first, False)
    assert await texts(history) == ["hi"]
    assert await history.conversations(limit=10) == before


async def test_one_message_id_in_two_conversations_is_two_messages(history: History) -> None:
    for conversation in ("group:7", "private:7"):
        _, is_new = await history.add(said("hi", conversation, message_id="m1"))
        assert is_new


@pytest.mark.parametrize("message_id", [None, ""])
async def test_messages_without_an_id_are_never_duplicates(history: History, message_id: str | None) -> None:
    for _ in range(2):
        message, is_new = await history.add(said("哈哈", message_id=message_id))
        assert is_new
        assert message.message_id is None
    assert await texts(history) == ["哈哈", "哈哈"]


async def test_250_messages_at_once_are_all_stored_in_order(history: History, tmp_path: Path) -> None:
    wanted = [str(n) for n in range(250)]
    added = await asyncio.gather(*(history.add(said(text)) for text in wanted))
    assert [message.text for message, _ in sorted(added, key=lambda result: result[0].id)] == wanted
    assert await texts(history) == wanted
    with sqlite3.connect(f"file:{tmp_path}/qqmem.db?mode=ro", uri=True) as other:
        assert [text for (text,) in other.execute("SELECT text FROM message ORDER BY id")] == wanted
    other.close()


async def test_the_same_message_many_times_at_once_is_stored_once(history: History) -> None:
    added = await asyncio.gather(*(history.add(said("hi", message_id="m1")) for _ in range(20)))
    assert sum(is_new for _, is_new in added) == 1
    assert len({message.id for message, _ in added}) == 1


async def test_an_add_that_is_cancelled_anywhere_is_whole_or_absent(history: History) -> None:
    for steps in range(60):
        conversation = f"group:{steps}"
        task = asyncio.create_task(history.add(said("hi", conversation)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await history.add(said("next", "private:1"))
        if any(found.id == conversation for found in await history.conversations(limit=100)):
            assert await texts(history, conversation) == ["hi"]
    assert await texts(history, "private:1") == ["next"] * 60


async def test_recent_is_the_newest_from_an_id_on_without_those_withdrawn(history: History) -> None:
    ids = await stored(history, "a", "b", "c")
    await history.add(said("d", message_id="m4"))
    await stored(history, "elsewhere", conversation="group:8")
    await stored(history, "e")
    await history.withdraw("group:7", "m4")

    async def recent(limit: int, since: int = 0) -> list[str]:
        return [message.text for message in await history.recent("group:7", limit, since)]

    assert await recent(10) == ["a", "b", "c", "e"]
    assert await recent(2) == ["c", "e"]
    assert await recent(10, since=ids[1]) == ["b", "c", "e"]
    assert await recent(0) == []
    assert await history.recent("group:9", limit=10) == []


async def test_who_starts_over_sees_only_what_comes_then(history: History) -> None:
    await history.start_over("group:7")
    await stored(history, "a", "b")
    await stored(history, "elsewhere", conversation="group:8")
    await history.start_over("group:7")
    assert await history.recent("group:7", 10) == []
    (c, _) = await stored(history, "c", "d")
    assert [message.text for message in await history.recent("group:7", 10)] == ["c", "d"]
    assert [message.text for message in await history.recent("group:8", 10)] == ["elsewhere"]
    await stored(history, "e")
    await history.start_over("group:7", waiting=c)
    assert [message.text for message in await history.recent("group:7", 10)] == ["c", "d", "e"]
    assert len(await history.messages("group:7", 10)) == 5, "all of it stays stored"


async def test_withdraw_marks_one_message_and_may_be_repeated(history: History) -> None:
    message, _ = await history.add(said("oops", message_id="m1"))
    await history.add(said("oops", "group:8", message_id="m1"))
    for _ in range(2):
        assert await history.withdraw("group:7", "m1") == replace(message, withdrawn=True)
    assert [found.withdrawn for found in await history.messages("group:7", limit=10)] == [True]
    assert [found.withdrawn for found in await history.messages("group:8", limit=10)] == [False]
    assert await history.withdraw("group:7", "unknown") is None
    assert await history.withdraw("group:7", "") is None
    assert await history.add(said("oops", message_id="m1")) == (replace(message, withdrawn=True), False)


async def test_messages_come_in_pages_that_hold_each_once(history: History) -> None:
    await stored(history, *"abcdefg")
    pages, before = [], None
    while page := await history.messages("group:7", limit=3, before=before):
        pages.append("".join(message.text for message in page))
        before = page[0].id
    assert pages == ["efg", "bcd", "a"]


# Conversations


async def test_a_group_goes_by_its_last_known_name(history: History) -> None:
    for name, shown in (("", ""), ("摸鱼群", "摸鱼群"), ("", "摸鱼群"), ("学习群", "学习群")):
        await history.add(replace(said("hi"), name=name))
        assert [found.name for found in await history.conversations(limit=1)] == [shown]


async def test_a_private_chat_goes_by_the_name_of_the_person(history: History) -> None:
    await history.add(said("hi", "private:10001"))
    turn = await history.begin_turn("private:10001", [1])
    await history.end_turn(turn, TurnEnd("replied", reply="hello"))
    (found,) = await history.conversations(limit=1)
    assert (found.name, found.num_messages) == ("小明", 2)


async def test_conversations_come_last_updated_first_in_pages_that_hold_each_once(history: History) -> None:
    for n in range(5):
        await stored(history, "hi", conversation=f"group:{n}")
    await stored(history, "again", conversation="group:1")
    assert (await history.conversation("group:1")).num_messages == 2
    pages, before = [], None
    while page := await history.conversations(limit=2, before=before):
        pages.append([(found.id, found.num_messages) for found in page])
        before = page[-1].id
    assert pages == [[("group:1", 2), ("group:4", 1)], [("group:3", 1), ("group:2", 1)], [("group:0", 1)]]


async def test_conversations_updated_at_the_same_time_are_paged_by_id(history: History, db: Database) -> None:
    async with db.write() as session:
        session.add_all(ConversationRow(id=f"group:{n}", name="", created_at=NOW, updated_at=NOW) for n in range(3))
    first = await history.conversations(limit=2)
    rest = await history.conversations(limit=2, before=first[-1].id)
    assert [found.id for found in first + rest] == ["group:2", "group:1", "group:0"]


async def test_an_unknown_conversation_is_an_error_that_names_it(history: History) -> None:
    async def export() -> None:
        await exported(history, "group:9")

    for call in (
        history.messages("group:9", limit=1),
        history.conversations(limit=1, before="group:9"),
        history.conversation("group:9"),
        history.delete("group:9"),
        history.begin_turn("group:9", []),
        export(),
    ):
        with pytest.raises(NotFound, match="group:9"):
            await call


async def test_delete_leaves_nothing_of_a_conversation_and_all_of_the_others(tmp_path: Path) -> None:
    secret = "天知地知你知我知"
    async with Database.open(tmp_path) as db:
        history = History(db)
        for conversation in ("private:1", "private:2"):
            await history.add(replace(said("bye", conversation), name=conversation))
        await history.add(said(secret * 2000, "private:1"))
        turn = await history.begin_turn("private:1", [1, 3])
        await history.end_turn(turn, TurnEnd("replied", reply=secret, thinking=secret))
        running = await history.begin_turn("private:1", [1])
        await history.delete("private:1")
        assert await history.end_turn(running, TurnEnd("replied", reply=secret)) is None
        assert await history.turn(turn) is None
        assert [found.id for found in await history.conversations(limit=10)] == ["private:2"]
        assert await texts(history, "private:2") == ["bye"]
        again, _ = await history.add(said("hi", "private:1"))
        assert again.id == 5
    assert secret.encode() not in (tmp_path / "qqmem.db").read_bytes()


# Turns


async def test_a_turn_runs_until_it_ends(history: History) -> None:
    ids = await stored(history, "a", "b", "c")
    turn = await history.begin_turn("group:7", ids[:2])
    running = await history.turn(turn)
    assert running is not None
    assert (running.end, running.ended_at, running.messages) == (TurnEnd("running"), None, tuple(ids[:2]))
    assert [message.turn for message in await history.messages("group:7", limit=10)] == [turn, turn, None]
    end = TurnEnd(
        "replied",
        reply="在呢",
        thinking="他在叫我",
        actions=(Action("EMOJI_LIKE", emoji_id=66, message_id="m1"), Action("POKE", user_id="1", target="user")),
        error="",
        prompt_tokens=100,
        cached_tokens=90,
        completion_tokens=3,
        queue_s=0.25,
        first_token_s=0.5,
        total_s=1.5,
    )
    message = await history.end_turn(turn, end)
    assert message is not None
    ended = await history.turn(turn)
    assert ended == replace(running, end=end, ended_at=message.time)
    assert message == Message(
        id=4,
        conversation="group:7",
        role="assistant",
        message_id=None,
        sender=Sender(id="", name=""),
        text="在呢",
        reply_to=None,
        addressed=False,
        time=message.time,
        turn=turn,
        withdrawn=False,
    )
    assert (await history.messages("group:7", limit=1)) == [message]


@pytest.mark.parametrize(
    ("outcome", "wanted"),
    [("replied", ["half"]), ("no_reply", [""]), ("superseded", []), ("cancelled", []), ("failed", [])],
)
async def test_only_a_reply_or_silence_becomes_a_message(history: History, outcome: Outcome, wanted: list[str]) -> None:
    turn = await history.begin_turn("group:7", await stored(history, "hi"))
    message = await history.end_turn(turn, TurnEnd(outcome, reply="half"))
    assert ([] if message is None else [message.text]) == wanted
    assert await texts(history) == ["hi", *wanted]
    ended = await history.turn(turn)
    assert ended is not None
    assert ended.end == TurnEnd(outcome, reply="half")


async def test_a_turn_ends_once(history: History) -> None:
    turn = await history.begin_turn("group:7", await stored(history, "hi"))
    await history.end_turn(turn, TurnEnd("superseded"))
    before = await exported(history)
    assert await history.end_turn(turn, TurnEnd("replied", reply="too late")) is None
    assert await exported(history) == before
    assert await history.end_turn(99, TurnEnd("replied")) is None
    assert await history.turn(99) is None


async def test_a_message_belongs_to_the_last_turn_that_answers_it(history: History) -> None:
    ids = await stored(history, "a", "b")
    first = await history.begin_turn("group:7", ids[:1])
    await history.end_turn(first, TurnEnd("superseded"))
    second = await history.begin_turn("group:7", ids)
    turns = await history.turns("group:7", [second, first])
    assert [(turn.id, turn.messages) for turn in turns] == [(first, ()), (second, tuple(ids))]


async def test_a_turn_touches_no_message_of_another_conversation(history: History) -> None:
    (mine,), (other,) = await stored(history, "a"), await stored(history, "b", conversation="group:8")
    turn = await history.begin_turn("group:7", [mine, other])
    assert [message.turn for message in await history.messages("group:8", limit=10)] == [None]
    assert await history.turns("group:8", [turn]) == []


async def test_recover_marks_what_a_crash_left_running(history: History) -> None:
    ids = await stored(history, "a")
    ended = await history.begin_turn("group:7", ids)
    await history.end_turn(ended, TurnEnd("replied", reply="b"))
    left = [await history.begin_turn("group:7", ids) for _ in range(2)]
    assert await history.recover() == 2
    assert await history.recover() == 0
    turns = await history.turns("group:7", [ended, *left])
    assert [turn.end.outcome for turn in turns] == ["replied", "interrupted", "interrupted"]
    assert all(turn.ended_at is not None for turn in turns)


# Export


async def fill(db: Database, conversation: str, num: int) -> None:
    """Store messages "0", "1", ... and as many turns, in one go."""
    rows: list[MessageRow | TurnRow] = []
    for n in range(num):
        rows.append(TurnRow(conversation_id=conversation, started_at=NOW, outcome="running", error=str(n)))
        sender = {"sender_id": "1", "sender_name": "", "sender_role": ""}
        message = {"role": "user", "text": str(n), "addressed": False, "time": NOW, "stored_at": NOW}
        rows.append(MessageRow(conversation_id=conversation, **sender, **message))
    async with db.write() as session:
        session.add(ConversationRow(id=conversation, name="", created_at=NOW, updated_at=NOW))
        await session.flush()
        session.add_all(rows)


async def test_export_is_every_message_and_then_every_turn(history: History, db: Database) -> None:
    await fill(db, "group:7", 1234)
    await fill(db, "group:8", 1)
    told = [r.text if isinstance(r, Message) else r.end.error for r in await exported(history)]
    assert told == [str(n) for n in range(1234)] * 2


async def test_an_export_ends_where_its_conversation_is_deleted(history: History, db: Database) -> None:
    await fill(db, "group:7", 1234)
    async with aclosing(history.export("group:7")) as records:
        seen = [await anext(records)]
        await history.delete("group:7")
        seen += [record async for record in records]
    assert 0 < len(seen) < 1234


# Crashes

WRITER = """
import asyncio, datetime, pathlib
from qqmem.db import Database
from qqmem.history import History
from qqmem.records import Incoming, Sender

async def main():
    async with Database.open(pathlib.Path(".")) as db:
        history = History(db)
        now = datetime.datetime.now(datetime.UTC)

        async def talk(n):
            while True:
                message, _ = await history.add(Incoming(f"group:{n}", Sender("1", "a"), "x" * 3000, now))
                await history.begin_turn(f"group:{n}", [message.id])
                print(message.id, flush=True)

        await asyncio.gather(*(talk(n) for n in range(4)))

asyncio.run(main())
"""


async def test_a_kill_in_the_middle_of_writes_loses_no_acknowledged_message(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [int(await process.stdout.readline()) for _ in range(40)]
    process.kill()
    acknowledged += [int(line) for line in (await process.stdout.read()).split()]
    assert await process.wait() == -signal.SIGKILL
    async with Database.open(tmp_path) as db:
        history = History(db)
        kept = {m.id: m for n in range(4) for m in await history.messages(f"group:{n}", limit=10_000)}
        assert kept.keys() >= set(acknowledged)
        assert all(kept[id].text == "x" * 3000 and kept[id].turn is not None for id in acknowledged)
        assert await history.recover() >= len(acknowledged)
        message, _ = await history.add(said("and it goes on", "group:0"))
        assert message.id > max(kept)
    with sqlite3.connect(tmp_path / "qqmem.db") as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert other.execute("PRAGMA foreign_key_check").fetchall() == []
    other.close()


# Any operations in any order, against plain dictionaries

CONVERSATIONS = st.sampled_from(["group:7", "private:7"])
MESSAGE_IDS = st.sampled_from(["m1", "m2", "m3"])
ENDS = st.sampled_from(["replied", "no_reply", "superseded", "cancelled", "failed"])


class AnyHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.open = AsyncExitStack()
        folder = Path(self.open.enter_context(tempfile.TemporaryDirectory()))
        self.history = History(self.runner.run(self.open.enter_async_context(Database.open(folder))))
        self.messages: dict[int, Message] = {}
        self.turns: dict[int, Turn] = {}
        self.last_message = self.last_turn = 0
        self.order: list[str] = []
        """Conversations, the last updated first."""

    def of(self, conversation: str) -> list[Message]:
        return [message for message in self.messages.values() if message.conversation == conversation]

    def keep(self, message: Message) -> None:
        assert message.id > self.last_message
        self.last_message = message.id
        self.messages[message.id] = message
        self.order = [message.conversation, *(id for id in self.order if id != message.conversation)]

    def raises_not_found(self, call: Coroutine[Any, Any, object], conversation: str) -> bool:
        if conversation in self.order:
            call.close()
            return False
        with pytest.raises(NotFound):
            self.runner.run(call)
        return True

    @rule(conversation=CONVERSATIONS, message_id=st.none() | MESSAGE_IDS, text=st.text(max_size=9))
    def add(self, conversation: str, message_id: str | None, text: str) -> None:
        known = [m for m in self.of(conversation) if message_id is not None and m.message_id == message_id]
        message, is_new = self.runner.run(self.history.add(said(text, conversation, message_id)))
        assert is_new == (not known)
        assert known == [] or known == [message]
        if is_new:
            assert (message.conversation, message.message_id, message.text) == (conversation, message_id, text)
            self.keep(message)

    @rule(conversation=CONVERSATIONS, num=st.integers(0, 3))
    def begin(self, conversation: str, num: int) -> None:
        answered = [message.id for message in self.of(conversation) if message.role == "user"][-num:]
        if self.raises_not_found(self.history.begin_turn(conversation, answered), conversation):
            return
        turn = self.runner.run(self.history.begin_turn(conversation, answered))
        assert turn > self.last_turn
        self.last_turn = turn
        for id in answered:
            self.messages[id] = replace(self.messages[id], turn=turn)
        self.turns[turn] = Turn(turn, conversation, NOW, None, TurnEnd("running"), ())

    @rule(back=st.integers(-1, 4), outcome=ENDS, reply=st.text(max_size=9))
    def end(self, back: int, outcome: Outcome, reply: str) -> None:
        id, end = self.last_turn - back, TurnEnd(outcome, reply=reply)
        said = self.runner.run(self.history.end_turn(id, end))
        turn = self.turns.get(id)
        speaks = turn is not None and turn.ended_at is None and outcome in ("replied", "no_reply")
        assert (said is not None) == speaks
        if turn is not None and turn.ended_at is None:
            self.turns[id] = replace(turn, ended_at=NOW, end=end)
        if said is not None:
            assert (said.role, said.turn, said.text) == ("assistant", id, reply if outcome == "replied" else "")
            self.keep(said)

    @rule(conversation=CONVERSATIONS, message_id=MESSAGE_IDS)
    def withdraw(self, conversation: str, message_id: str) -> None:
        found = self.runner.run(self.history.withdraw(conversation, message_id))
        known = [replace(m, withdrawn=True) for m in self.of(conversation) if m.message_id == message_id]
        assert ([] if found is None else [found]) == known
        self.messages |= {message.id: message for message in known}

    @rule(conversation=CONVERSATIONS)
    def delete(self, conversation: str) -> None:
        if self.raises_not_found(self.history.delete(conversation), conversation):
            return
        self.runner.run(self.history.delete(conversation))
        self.order.remove(conversation)
        self.messages = {id: m for id, m in self.messages.items() if m.conversation != conversation}
        self.turns = {id: turn for id, turn in self.turns.items() if turn.conversation != conversation}

    @rule()
    def recover(self) -> None:
        left = [turn for turn in self.turns.values() if turn.ended_at is None]
        assert self.runner.run(self.history.recover()) == len(left)
        self.turns |= {turn.id: replace(turn, ended_at=NOW, end=TurnEnd("interrupted")) for turn in left}

    @rule(conversation=CONVERSATIONS, limit=st.integers(0, 9), since=st.integers(0, 9))
    def recent(self, conversation: str, limit: int, since: int) -> None:
        wanted = [m for m in self.of(conversation) if m.id >= since and not m.withdrawn]
        found = self.runner.run(self.history.recent(conversation, limit, since))
        assert found == wanted[max(len(wanted) - limit, 0) :]

    def teardown(self) -> None:
        """Compare all that is stored, but for the times of turns."""
        conversations = self.runner.run(self.history.conversations(limit=9))
        assert [found.id for found in conversations] == self.order
        for conversation in self.order:
            told = self.runner.run(exported(self.history, conversation))
            assert [record for record in told if isinstance(record, Message)] == self.of(conversation)
            assert {r.id: self.timeless(r) for r in told if isinstance(r, Turn)} == self.turns_of(conversation)
        self.runner.run(self.open.aclose())
        self.runner.close()

    def turns_of(self, conversation: str) -> dict[int, Turn]:
        def answered(turn: int) -> tuple[int, ...]:
            return tuple(m.id for m in self.messages.values() if m.turn == turn and m.role == "user")

        turns = (turn for turn in self.turns.values() if turn.conversation == conversation)
        return {turn.id: replace(turn, messages=answered(turn.id)) for turn in turns}

    def timeless(self, turn: Turn) -> Turn:
        return replace(turn, started_at=NOW, ended_at=turn.ended_at and NOW)


AnyHistory.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestAnyHistory = AnyHistory.TestCase
