"""What stops a turn: cancelling, leaving, withdrawing, deleting, closing, and what breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from qqmem.chat import Reply, TurnEnded, TurnStarted
from qqmem.db import Database
from qqmem.engine.types import Tokenizer
from qqmem.errors import DatabaseError, EngineStopped, NotFound
from qqmem.history import History
from qqmem.records import Incoming, Message, TurnEnd
from tests.fakes_engine import CharTokenizer
from tests.talk import GROUP, PRIVATE, Talk, Windows, open_talk


async def finish(talk: Talk, text: str) -> None:
    """Play the next request to its end."""
    writing = await talk.writer.next()
    writing.write(text)
    writing.finish()


def ends(talk: Talk) -> list[tuple[int | None, str]]:
    return [(event.turn, event.outcome) for event in talk.events if isinstance(event, TurnEnded)]


# ---- cancel -----------------------------------------------------------------------------------------------------


async def test_cancel_stops_the_reply_being_written(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        reply = await talk.say("在吗")
        writing = await talk.writer.next()
        assert await talk.chats.cancel(PRIVATE)
        assert writing.closed.is_set()
        end = await reply.end()
        assert (end.turn, end.outcome, end.reply) == (1, "cancelled", "")
        assert await talk.outcomes() == ["cancelled"]
        assert await talk.texts() == ["在吗"]
        assert not await talk.chats.cancel(PRIVATE)


async def test_the_conversation_goes_on_after_a_cancel(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        await talk.say("一")
        await talk.writer.next()
        await talk.chats.cancel(PRIVATE)
        reply = await talk.say("二")
        await finish(talk, "好")
        assert (await reply.end()).outcome == "replied"
        assert await talk.texts() == ["一", "二", ">好"]
        assert [turn.messages for turn in await talk.turns()] == [(1,), (2,)]


async def test_cancel_before_the_turn_has_begun(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep) as talk:
        reply = await talk.say("在吗")
        await windows.opened.get()
        assert await talk.chats.cancel(PRIVATE)
        assert await reply.end() == TurnEnded(None, PRIVATE, "cancelled")
        windows.close()
        assert not await talk.chats.cancel(PRIVATE)
        assert await talk.turns() == []


async def test_cancel_while_the_model_loads(tmp_path: Path) -> None:
    loaded = asyncio.Event()

    async def loading() -> Tokenizer:
        await loaded.wait()
        return CharTokenizer()

    async with open_talk(tmp_path, tokenizer=loading) as talk:
        reply = await talk.say("一")
        await anext(reply)
        assert await talk.chats.cancel(PRIVATE)
        assert (await reply.end()).outcome == "cancelled"
        loaded.set()
        again = await talk.say("二")
        await finish(talk, "好")
        assert (await again.end()).outcome == "replied"


async def test_cancelling_nothing_is_no_error(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        assert not await talk.chats.cancel("private:404")


async def test_cancel_stops_the_running_turn_and_not_what_waits_behind_it(tmp_path: Path) -> None:
    async with open_talk(tmp_path, chat={"interrupt": "never"}) as talk:
        first = await talk.say("小忆，一", GROUP)
        await talk.writer.next()
        second = await talk.say("小忆，二", GROUP)
        assert await talk.chats.cancel(GROUP)
        assert (await first.end()).outcome == "cancelled"
        await finish(talk, "好")
        assert (await second.end()).outcome == "replied"


# ---- leaving ----------------------------------------------------------------------------------------------------


async def test_leaving_a_reply_cancels_its_turn(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        async with await talk.say("在吗") as reply:
            writing = await talk.writer.next()
        await writing.closed.wait()
        assert [event async for event in reply] == []
    assert ends(talk) == [(1, "cancelled")]


async def test_leaving_before_the_turn_has_begun_lets_it_never_begin(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep) as talk:
        async with await talk.say("在吗"):
            await windows.opened.get()
        await talk.chats.cancel(PRIVATE)  # runs after the leaving
        windows.close()
    assert ends(talk) == [(None, "cancelled")]
    assert talk.writer.writings == []


async def test_leaving_an_ended_reply_changes_nothing(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        async with await talk.say("一") as first:
            second = await talk.say("二")
            assert (await first.end()).outcome == "superseded"
        await finish(talk, "好")
        assert (await second.end()).outcome == "replied"


async def test_a_sender_that_is_cancelled_while_its_message_is_stored_leaves(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        sending = asyncio.create_task(talk.say("在吗"))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not await talk.chats.cancel(PRIVATE)  # runs after the message has come in
        assert await talk.texts() == ["在吗"]
    assert ends(talk) == [(None, "cancelled")]


# ---- withdrawing ------------------------------------------------------------------------------------------------


async def test_a_withdrawn_message_is_answered_no_more_and_the_others_are(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        await talk.say("密码是一二三", message_id="m1")
        reply = await talk.say("在吗", message_id="m2")
        while "在吗" not in (writing := await talk.writer.next()).prompt:
            pass
        assert await talk.chats.withdraw(PRIVATE, "m1")
        assert writing.closed.is_set()
        again = await talk.writer.next()
        assert "密码" not in again.prompt
        again.write("在")
        again.finish()
        events = [event async for event in reply]
        assert [event.messages for event in events if isinstance(event, TurnStarted)] == [(1, 2), (2,)]
        assert (await reply.end()).reply == "在"
        assert (await talk.outcomes())[-2:] == ["superseded", "replied"]


async def test_who_withdraws_the_newest_message_waits_for_the_answer_to_the_rest(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep) as talk:
        await talk.say("一", message_id="m1")
        reply = await talk.say("二", message_id="m2")
        windows.close()
        await talk.writer.next()
        assert await talk.chats.withdraw(PRIVATE, "m2")
        windows.close()
        await finish(talk, "好")
        assert (await reply.end()).reply == "好"
        assert [turn.messages for turn in await talk.turns()][-1] == (1,)


async def test_withdrawing_the_only_message_cancels_its_turn(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        reply = await talk.say("在吗", message_id="m1")
        await talk.writer.next()
        assert await talk.chats.withdraw(PRIVATE, "m1")
        end = await reply.end()
        assert (end.turn, end.outcome) == (1, "cancelled")
        assert await talk.outcomes() == ["cancelled"]


async def test_withdrawing_before_the_turn_has_begun(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep) as talk:
        first = await talk.say("一", message_id="m1")
        second = await talk.say("二", message_id="m2")
        assert await talk.chats.withdraw(PRIVATE, "m1")
        assert (await first.end()).outcome == "superseded"
        windows.close()
        assert await anext(second) == TurnStarted(1, PRIVATE, (2,))
        assert "：一" not in (await talk.writer.next()).prompt
        third = await talk.say("三", message_id="m3")
        assert await talk.chats.withdraw(PRIVATE, "m3")
        assert await talk.chats.withdraw(PRIVATE, "m2")
        assert await third.end() == TurnEnded(None, PRIVATE, "cancelled")


async def test_who_waits_behind_a_withdrawal_carries_the_reply_to_both(tmp_path: Path) -> None:
    async with open_talk(tmp_path, chat={"interrupt": "never"}) as talk:
        first = await talk.say("小忆，一", GROUP, message_id="m1")
        await talk.writer.next()
        second = await talk.say("小忆，二", GROUP, message_id="m2")
        third = await talk.say("小忆，三", GROUP, message_id="m3")
        await talk.chats.cancel(GROUP)
        assert (await first.end()).outcome == "cancelled"
        await talk.writer.next()
        fourth = await talk.say("小忆，四", GROUP, message_id="m4")
        assert await talk.chats.withdraw(GROUP, "m2")
        assert (await second.end()).outcome == (await third.end()).outcome == "superseded"
        await finish(talk, "好")
        assert (await fourth.end()).outcome == "replied"
        assert (await talk.turns(GROUP))[-1].messages == (3, 4)


async def test_withdrawing_what_is_not_being_answered_stops_nothing(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        await talk.say("哈哈", GROUP, message_id="m1")
        reply = await talk.say("小忆在吗", GROUP)
        writing = await talk.writer.next()
        assert await talk.chats.withdraw(GROUP, "m1")
        assert not await talk.chats.withdraw(GROUP, "m404")
        writing.write("在")
        writing.finish()
        assert (await reply.end()).outcome == "replied"
        assert (await talk.message("哈哈", GROUP)).withdrawn


# ---- deleting ---------------------------------------------------------------------------------------------------


async def test_deleting_stops_the_turn_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        reply = await talk.say("在吗")
        writing = await talk.writer.next()
        await talk.chats.delete(PRIVATE)
        assert writing.closed.is_set()
        assert (await reply.end()).outcome == "cancelled"
        with pytest.raises(NotFound):
            await talk.texts()
        assert await talk.turns() == []


async def test_deleting_before_the_turn_has_begun(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep) as talk:
        reply = await talk.say("在吗")
        await talk.chats.delete(PRIVATE)
        assert await reply.end() == TurnEnded(None, PRIVATE, "cancelled")
        with pytest.raises(NotFound):
            await talk.chats.delete(PRIVATE)


async def test_a_deleted_conversation_begins_afresh(tmp_path: Path) -> None:
    chat = {"history_messages": 4}
    async with open_talk(tmp_path, script=lambda prompt: "嗯", chat=chat) as talk:
        for i in range(6):
            await (await talk.say(f"旧{i}")).end()
        await talk.chats.delete(PRIVATE)
        await (await talk.say("新")).end()
        assert await talk.texts() == ["新", ">嗯"]
    assert "旧" not in talk.writer.writings[-1].prompt


# ---- closing ----------------------------------------------------------------------------------------------------


async def test_closing_lets_a_running_turn_end(tmp_path: Path) -> None:
    async with open_talk(tmp_path, drain_seconds=60) as talk:
        reply = await talk.say("在吗")
        writing = await talk.writer.next()
        closing = asyncio.create_task(talk.chats.__aexit__())
        await asyncio.sleep(0)
        with pytest.raises(EngineStopped, match="shutting down"):
            await talk.say("还在吗")
        writing.write("在")
        writing.finish()
        assert (await reply.end()).outcome == "replied"
        await closing
        assert await talk.texts() == ["在吗", ">在"]


async def test_closing_cancels_what_takes_too_long_and_stores_it(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        replies = [await talk.say("在吗", f"private:{i}") for i in range(5)]
        for _ in replies:
            await talk.writer.next()
        await talk.chats.__aexit__()
        assert [(await reply.end()).outcome for reply in replies] == ["cancelled"] * 5
        for i in range(5):
            assert await talk.outcomes(f"private:{i}") == ["cancelled"]
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_begins_no_turn_but_keeps_what_has_come(tmp_path: Path) -> None:
    windows = Windows()
    async with open_talk(tmp_path, sleep=windows.sleep, drain_seconds=60) as talk:
        waiting = await talk.say("一")
        sending = asyncio.create_task(talk.say("二", "private:8"))
        await asyncio.sleep(0)
        await talk.chats.__aexit__()
        assert await waiting.end() == TurnEnded(None, PRIVATE, "cancelled")
        assert (await (await sending).end()).outcome == "cancelled"
        assert await talk.texts() == ["一"]
        assert await talk.texts("private:8") == ["二"]
        assert talk.writer.writings == []
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_while_the_model_loads_waits_for_nothing(tmp_path: Path) -> None:
    async def forever() -> Tokenizer:
        await asyncio.Event().wait()
        raise AssertionError

    async with open_talk(tmp_path, tokenizer=forever) as talk:
        reply = await talk.say("在吗")
        await anext(reply)
    assert (await reply.end()).outcome == "cancelled"
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_actor_lives_only_while_it_has_something_to_do(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        resting = asyncio.all_tasks()
        for i in range(20):
            await talk.say("哈哈", f"group:{i}")
        reply = await talk.say("在吗")
        assert len(asyncio.all_tasks()) > len(resting)
        await finish(talk, "在")
        await reply.end()
        await asyncio.gather(*(asyncio.all_tasks() - resting))  # they end by themselves


# ---- what breaks ------------------------------------------------------------------------------------------------


async def test_a_known_error_of_the_engine_is_told_and_stored(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        reply = await talk.say("在吗")
        writing = await talk.writer.next()
        writing.write("我")
        writing.fail(EngineStopped("The model has stopped."))
        end = await reply.end()
        assert (end.turn, end.outcome, end.reply, end.error) == (1, "failed", "", "The model has stopped.")
        assert end.code == "engine_stopped"
        (turn,) = await talk.turns()
        assert (turn.end.outcome, turn.end.error) == ("failed", "The model has stopped.")
        again = await talk.say("还在吗")
        await finish(talk, "在")
        assert (await again.end()).outcome == "replied"
        assert await talk.texts() == ["在吗", "还在吗", ">在"]


async def test_a_bug_is_logged_once_and_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_talk(tmp_path) as talk:
        reply = await talk.say("在吗")
        (await talk.writer.next()).fail(ZeroDivisionError("secret"))
        end = await reply.end()
        assert (end.outcome, end.error, end.code) == ("failed", "The reply failed; see the log.", "internal")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


class FaultyHistory(History):
    """Fails whatever the test has named."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.broken: set[str] = set()

    def _touch(self, name: str) -> None:
        if name in self.broken:
            raise DatabaseError("The disk is full.")

    async def add(self, message: Incoming, *, owed: bool = False) -> tuple[Message, bool]:
        self._touch("add")
        return await super().add(message, owed=owed)

    async def begin_turn(self, conversation: str, messages: Sequence[int]) -> int:
        self._touch("begin_turn")
        return await super().begin_turn(conversation, messages)

    async def end_turn(self, turn: int, end: TurnEnd, *, again: bool = False) -> Message | None:
        self._touch("end_turn")
        return await super().end_turn(turn, end, again=again)

    async def withdraw(self, conversation: str, message_id: str) -> Message | None:
        self._touch("withdraw")
        return await super().withdraw(conversation, message_id)


def broken(talk: Talk) -> set[str]:
    assert isinstance(talk.history, FaultyHistory)
    return talk.history.broken


async def test_a_message_that_cannot_be_stored_is_its_senders_error_alone(tmp_path: Path) -> None:
    async with open_talk(tmp_path, history=FaultyHistory) as talk:
        reply = await talk.say("一")
        writing = await talk.writer.next()
        broken(talk).add("add")
        with pytest.raises(DatabaseError, match="full"):
            await talk.say("二")
        broken(talk).clear()
        writing.write("好")
        writing.finish()
        assert (await reply.end()).outcome == "replied"
        assert await talk.texts() == ["一", ">好"]


@pytest.mark.parametrize("step", ["begin_turn", "end_turn"])
async def test_a_turn_that_cannot_be_kept_fails_and_the_conversation_goes_on(tmp_path: Path, step: str) -> None:
    async with open_talk(tmp_path, history=FaultyHistory, script=lambda prompt: "好") as talk:
        broken(talk).add(step)
        end = await (await talk.say("一")).end()
        assert (end.outcome, end.error, end.reply) == ("failed", "The disk is full.", "")
        broken(talk).clear()
        assert (await (await talk.say("二")).end()).outcome == "replied"
        assert await talk.texts() == ["一", "二", ">好"]


async def test_an_interrupted_turn_that_cannot_be_kept_fails_the_new_one_too(tmp_path: Path) -> None:
    async with open_talk(tmp_path, history=FaultyHistory) as talk:
        first = await talk.say("一")
        await talk.writer.next()
        broken(talk).add("end_turn")
        second = await talk.say("二")
        assert (await first.end()).outcome == "superseded"
        failed = await second.end()
        assert (failed.turn, failed.error, failed.code) == (None, "The disk is full.", "database")
        broken(talk).clear()
        third = await talk.say("三")
        await finish(talk, "好")
        assert (await third.end()).outcome == "replied"
    assert len(ends(talk)) == 3


async def test_a_cancel_that_cannot_be_kept_lets_the_next_turn_begin(tmp_path: Path) -> None:
    async with open_talk(tmp_path, history=FaultyHistory, chat={"interrupt": "never"}) as talk:
        first = await talk.say("小忆，一", GROUP)
        await talk.writer.next()
        await talk.say("小忆，二", GROUP)
        third = await talk.say("小忆，三", GROUP)  # by now the second one waits for nothing but the first
        broken(talk).add("end_turn")
        with pytest.raises(DatabaseError):
            await talk.chats.cancel(GROUP)
        broken(talk).clear()
        assert (await first.end()).outcome == "cancelled"
        await finish(talk, "好")
        assert (await third.end()).outcome == "replied"


async def test_an_asker_that_was_cancelled_takes_its_error_along(tmp_path: Path) -> None:
    async with open_talk(tmp_path, history=FaultyHistory) as talk:
        reply = await talk.say("在吗")
        writing = await talk.writer.next()
        broken(talk).add("withdraw")
        asking = asyncio.create_task(talk.chats.withdraw(PRIVATE, "m1"))
        await asyncio.sleep(0)
        asking.cancel()
        writing.write("在")
        writing.finish()
        assert (await reply.end()).outcome == "replied"


async def test_asking_for_the_end_of_a_reply_that_was_left_is_a_mistake(tmp_path: Path) -> None:
    async with open_talk(tmp_path) as talk:
        reply: Reply = await talk.say("在吗")
        await reply.aclose()
        with pytest.raises(AssertionError, match="left"):
            await reply.end()
