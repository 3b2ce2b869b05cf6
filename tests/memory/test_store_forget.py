from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from qqmem.db import Database, RecallRow
from qqmem.errors import InvalidRequest, NotFound
from qqmem.history import History
from qqmem.memory.scope import View
from qqmem.memory.store import Store
from qqmem.records import Message
from tests.memory.records import answered, fact_of, said, told, words_of

ALL = View.all()


async def remembered(store: Store, *new: Message) -> list[int]:
    return [memory.id for memory in await store.add([words_of(message) for message in new], "message")]


async def in_prompts(history: History, conversation: str = "group:7") -> list[str]:
    return [message.text for message in await history.recent(conversation, limit=100)]


async def left(store: Store) -> list[int]:
    return sorted(memory.id for memory in await store.page(ALL, 100))


async def recalled(db: Database, turn: int | None, memory: int, cue: str = "猫") -> None:
    async with db.write() as session:
        session.add(RecallRow(turn_id=turn, n=1, cue=cue, mode="spliced", memory_id=memory, candidates=[]))


# Complete


async def test_no_way_of_reading_knows_what_was_forgotten(store: Store, history: History) -> None:
    message = await said(history, "我叫张三丰")
    (own, fact) = await store.add([words_of(message), fact_of("小明叫张三丰", message, subject_id="10001")], "x")
    await store.edit(fact.id, "小明其实叫张三丰", "x", "better")
    await store.put_vectors("a", [own.id, fact.id], [own.told, "小明其实叫张三丰"], np.ones((2, 2), np.float32))
    await store.set_decodable([fact.id], "0001")
    exported = await store.page(ALL, 100)

    assert await store.forget([fact.id], "user:10001", "asked") == [own.id, fact.id]

    for id in (own.id, fact.id):
        with pytest.raises(NotFound):
            await store.find(id)
        with pytest.raises(NotFound):
            await store.edit(id, "x", "x")
        assert await store.vector(id, "a") is None
        history_of = await store.history(id)
        assert {(event.old, event.new) for event in history_of} == {("", "")}
        assert (history_of[-1].event, history_of[-1].actor, history_of[-1].reason) == ("DELETE", "user:10001", "asked")
    assert await store.seen([own.id, fact.id], ALL) == []
    assert await store.page(ALL, 100) == await store.page(ALL, 100, state="deleted") == []
    assert await store.page(ALL, 100, subject="10001") == []
    assert await store.own("10001", ALL) == await store.own("10001", ALL, "张三丰") == []
    assert await store.by_source("group:7", [message.id]) == []
    assert await store.lexical("张三丰 小明", ALL, 100) == []
    assert [page async for page in store.vectors("a")] == []
    assert await store.missing("a", 100) == []
    assert await store.put_vectors("a", [fact.id], [""], np.ones((1, 2), np.float32)) == []
    assert await store.count() == {"searchable": 0, "superseded": 0, "expired": 0, "deleted": 2}
    assert await in_prompts(history) == []
    await store.used([fact.id])
    await store.set_decodable([fact.id], "0002")
    assert await store.evict(0) == await store.forget([own.id, fact.id], "x") == []
    assert await store.restore(exported, "x") == [None, None]


async def test_the_file_holds_nothing_of_what_was_forgotten(store: Store, tmp_path: Path) -> None:
    secret, also = "zyxwvut张三丰", "qponmlk李四光"
    kept = [memory.id for memory in await store.add([told(f"别的 {n}") for n in range(50)], "x")]
    (memory,) = await store.add([told(secret)], "x")
    await store.edit(memory.id, also, "x")
    (other,) = await store.add([told(secret, subject_id="1")], "x")
    assert await asyncio.to_thread(forms, tmp_path, secret, also) > 0
    await store.forget([memory.id, other.id], "x")
    assert await asyncio.to_thread(forms, tmp_path, secret, also) == 0
    assert await left(store) == kept


def forms(folder: Path, *texts: str) -> int:
    """How often the words of these texts are in the file."""
    connection = sqlite3.connect(folder / "qqmem.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert (folder / "qqmem.db-wal").stat().st_size == 0
    raw = (folder / "qqmem.db").read_bytes()
    return sum(raw.count(part.encode()) for whole in texts for part in (whole[:7], whole[7:]))


async def test_it_is_never_stored_again_for_its_owner(store: Store) -> None:
    (id,) = [memory.id for memory in await store.add([told("小明怕黑。", "member:1@7", kind="message")], "x")]
    await store.forget([id], "x")
    again = ["user:1", "member:1@7", "member:1@8"]
    assert await store.add([told(" 小明怕黑", scope) for scope in again], "x") == []
    (other,) = await store.add([told("小明怕狗", "user:1")], "x")
    with pytest.raises(InvalidRequest, match="forgotten"):
        await store.edit(other.id, "小明怕黑", "x")
    assert await store.supersede([other.id], told("小明怕黑", "user:1"), "x") is None
    others = [told("小明怕黑", scope) for scope in ("user:2", "member:2@7", "group:7", "global")]
    assert len(await store.add(others, "x")) == 4


async def test_nothing_is_drawn_from_hidden_messages(store: Store, history: History) -> None:
    message = await said(history, "我怕黑")
    await store.forget(await remembered(store, message), "x")
    assert await store.add([fact_of("小明晚上要开灯", message)], "extract") == []


# What goes along


async def test_a_fact_takes_its_messages_and_what_else_came_from_them(store: Store, history: History) -> None:
    one, two, three, four = [await said(history, words) for words in ("我怕黑", "还怕狗", "晚上开灯", "你好")]
    words = await remembered(store, one, two, three, four)
    facts = [
        fact_of("小明怕黑", one),
        fact_of("小明怕黑怕狗", one, two),
        fact_of("小明怕狗", two),
        fact_of("灯", three),
    ]
    first, both, second, lamp = [memory.id for memory in await store.add(facts, "x")]
    assert await store.forget([first], "x") == sorted([*words[:2], first, both, second])
    assert await left(store) == sorted([words[2], words[3], lamp])
    assert await in_prompts(history) == ["晚上开灯", "你好"]


async def test_a_message_takes_the_facts_that_cite_it(store: Store, history: History) -> None:
    one, two = await said(history, "我怕黑"), await said(history, "还怕狗")
    words = await remembered(store, one, two)
    (fact,) = await store.add([fact_of("小明怕黑怕狗", one, two)], "x")
    assert await store.forget([words[0]], "x") == [*words, fact.id]
    assert await in_prompts(history) == []


async def test_all_pieces_of_a_message_go_together(store: Store, history: History) -> None:
    message = await said(history, "我怕黑。我怕狗。")
    pieces = [fact_of(words, message, kind="message") for words in ("我怕黑。", "我怕狗。")]
    ids = [memory.id for memory in await store.add(pieces, "x")]
    assert await store.forget(ids[1:], "x") == ids


async def test_what_was_said_twice_is_hidden_twice(store: Store, history: History) -> None:
    one, two = await said(history, "我怕黑"), await said(history, "我怕黑")
    (id,) = await remembered(store, one, two)
    (fact,) = await store.add([fact_of("小明怕黑", two)], "x")
    assert await store.forget([id], "x") == [id, fact.id]
    assert await in_prompts(history) == []


async def test_a_yes_does_not_take_along_what_other_yeses_confirmed(store: Store, history: History) -> None:
    one, two = await said(history, "好的"), await said(history, "好的")
    (yes,) = await remembered(store, one, two)
    first, second = await store.add([fact_of("小明要去上海", one), fact_of("小明养了猫", two)], "x")
    assert await store.forget([first.id], "x") == [yes, first.id]
    assert await store.find(second.id) == second


async def test_a_fact_takes_its_older_versions_and_no_newer_one(store: Store) -> None:
    (first,) = await store.add([told("小明住在北京")], "x")
    second = await store.supersede([first.id], told("小明住在上海"), "x")
    assert second is not None
    third = await store.supersede([second.id], told("小明住在广州"), "x")
    assert third is not None
    assert await store.forget([second.id], "x") == [first.id, second.id]
    assert await left(store) == [third.id]
    assert (await store.find(third.id)).text == "小明住在广州"


async def test_messages_of_other_conversations_with_the_same_number_stay(store: Store, history: History) -> None:
    message = await said(history, "你好", conversation="group:8")
    elsewhere, here = await store.add(
        [fact_of("小明怕黑", message, conversation="group:9"), fact_of("小红怕黑", message)], "import"
    )
    assert await store.forget([elsewhere.id], "x") == [elsewhere.id]
    assert await left(store) == [here.id]
    assert await in_prompts(history, "group:8") == ["你好"]


async def test_what_the_bot_answered_is_hidden_too(store: Store, history: History) -> None:
    one, two = await said(history, "我怕黑"), await said(history, "你好")
    await answered(history, "开灯吧", one)
    await answered(history, "你好呀", two)
    await store.forget(await remembered(store, one), "x")
    assert await in_prompts(history) == ["你好", "你好呀"]
    hidden = [message.text for message in await history.messages("group:7", 9) if message.withdrawn]
    assert hidden == ["我怕黑", "开灯吧"]


async def test_what_the_bot_said_from_the_memory_is_hidden_too(db: Database, store: Store, history: History) -> None:
    ask, other = await said(history, "我怕什么"), await said(history, "还有呢")
    (dark,) = await store.add([told("小明怕黑")], "x")
    (dogs,) = await store.add([told("小明怕狗")], "x")
    await recalled(db, (await answered(history, "你怕黑", ask)).turn, dark.id, "怕黑吗")
    await recalled(db, (await answered(history, "你怕狗", other)).turn, dogs.id, "怕狗吗")
    await store.forget([dark.id], "x")
    assert await in_prompts(history) == ["我怕什么", "还有呢", "你怕狗"]
    async with db.read() as session:
        assert list(await session.scalars(text("SELECT cue FROM recall ORDER BY id"))) == ["", "怕狗吗"]


async def test_many_are_forgotten_at_once_and_unknown_ones_are_no_error(store: Store) -> None:
    kept, *gone = [memory.id for memory in await store.add([told(f"第{n}件") for n in range(300)], "x")]
    assert await store.forget([*gone, *gone, *range(10_000, 50_000), -1], "x") == gone
    assert await store.forget([], "x") == []
    assert await left(store) == [kept]


# Withdrawn


async def test_a_withdrawn_message_takes_what_cites_it_and_nothing_else(store: Store, history: History) -> None:
    one, two = await said(history, "我怕黑"), await said(history, "还怕狗")
    await answered(history, "知道了", one)
    words = await remembered(store, one, two)
    both, second = await store.add([fact_of("小明怕黑怕狗", one, two), fact_of("小明怕狗", two)], "x")
    assert await store.forget_messages("group:7", [one.id], "user:10001", "withdrawn") == [words[0], both.id]
    assert await left(store) == [words[1], second.id]
    assert await in_prompts(history) == ["还怕狗"]
    assert (await store.history(both.id))[-1].reason == "withdrawn"


async def test_a_withdrawn_message_may_be_said_again(store: Store, history: History) -> None:
    one = await said(history, "我怕黑")
    await remembered(store, one)
    await store.forget_messages("group:7", [one.id], "x")
    assert await remembered(store, one) == []
    assert len(await remembered(store, await said(history, "我怕黑"))) == 1


async def test_what_was_said_elsewhere_too_is_not_withdrawn_with_it(store: Store, history: History) -> None:
    one, two = await said(history, "我怕黑"), await said(history, "我怕黑")
    (id,) = await remembered(store, one, two)
    assert await store.forget_messages("group:7", [one.id], "x") == []
    assert (await store.find(id)).sources == (two.id,)
    assert await in_prompts(history) == ["我怕黑"]
    assert await store.forget_messages("group:7", [two.id], "x") == [id]


async def test_saying_it_twice_and_withdrawing_both_at_once_leaves_nothing(store: Store, history: History) -> None:
    one, two = await said(history, "我怕黑"), await said(history, "我怕黑")
    (id,) = await remembered(store, one, two)
    assert await store.forget_messages("group:7", [one.id, two.id], "x") == [id]


async def test_what_was_said_in_a_message_that_is_hidden_by_now_does_not_stay(store: Store, history: History) -> None:
    one, two = await said(history, "我怕黑", message_id="m1"), await said(history, "我怕黑")
    (id,) = await remembered(store, one, two)
    await history.withdraw("group:7", "m1")
    assert await store.forget_messages("group:7", [two.id], "x") == [id]


async def test_only_messages_of_that_conversation_are_withdrawn(store: Store, history: History) -> None:
    message = await said(history, "我怕黑")
    (id,) = await remembered(store, message)
    assert await store.forget_messages("group:8", [message.id], "x") == []
    assert await left(store) == [id]
    assert await in_prompts(history) == ["我怕黑"]


# A conversation


@pytest.mark.parametrize("is_deleted_first", [True, False])
async def test_a_conversation_takes_its_memories(store: Store, history: History, is_deleted_first: bool) -> None:
    here, there = await said(history, "我怕黑"), await said(history, "我怕狗", conversation="group:8")
    (words,) = await remembered(store, here)
    told_there = fact_of("小明怕狗", there)
    other, by_hand = await store.add([told_there, told("群规")], "x")
    if is_deleted_first:
        await history.delete("group:7")
    assert await store.forget_conversation("group:7", "api:test") == [words]
    assert await left(store) == [other.id, by_hand.id]
    assert await in_prompts(history) == []
    assert await in_prompts(history, "group:8") == ["我怕狗"]
    assert len(await remembered(store, await said(history, "我怕黑"))) == 1
