from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from qqmem.db import Database
from qqmem.errors import InvalidRequest, NotFound
from qqmem.history import History
from qqmem.memory.scope import Scope, View
from qqmem.memory.store import MAX_CHARS, Point, Store
from qqmem.memory.types import Memory, MemoryEvent, NewMemory, Space
from tests.memory.records import NOW, fact_of, said, told, words_of

ALL = View.all()
LATER = NOW + timedelta(days=1)


HARMLESS = [
    "",
    " ",
    "的",
    "😀",
    "\0",
    "\ud800",
    '"',
    "'",
    "''' OR 1=1 --",
    '" OR words : *',
    "words : x",
    "places : global",
    "NEAR(a b)",
    "a AND",
    "NOT",
    "-",
    "^a",
    "a*",
    "{a b} : c",
    "(",
    "%_",
    "; DROP TABLE memory",
    "a" * 10_000,
    "猫" * 10_000,
    "".join(chr(0x4E00 + n) for n in range(10_000)),
]


async def added(store: Store, *texts: str, scope: str = "group:7") -> list[int]:
    return [memory.id for memory in await store.add([told(text, scope) for text in texts], "api:test")]


async def events(store: Store, id: int) -> list[tuple[str, str, str, str, str]]:
    return [(one.event, one.old, one.new, one.actor, one.reason) for one in await store.history(id)]


async def texts(store: Store, view: View = ALL) -> list[str]:
    return [memory.text for memory in await store.page(view, limit=1000)]


async def found(store: Store, text: str, view: View = ALL, k: int = 100) -> list[int]:
    return [match.id for match in await store.lexical(text, view, k)]


# Adding


async def test_a_memory_comes_back_as_it_was_told(store: Store) -> None:
    new = NewMemory(
        "message", "member:10001@7", "我喜欢 猫😀\n'; --", NOW, "10002", "10001", "小明", "group:7", (8, 3, 8)
    )
    before = datetime.now(UTC)
    (memory,) = await store.add([new], "message", "said")
    assert before <= memory.created_at <= datetime.now(UTC)
    assert memory == Memory(
        id=1,
        kind="message",
        scope="member:10001@7",
        text=new.text,
        valid_from=NOW,
        subject_id="10002",
        speaker_id="10001",
        speaker_name="小明",
        conversation="group:7",
        sources=(3, 8),
        state="searchable",
        created_at=memory.created_at,
    )
    assert await store.find(1) == memory
    (event,) = await store.history(1)
    assert event == MemoryEvent(1, 1, "ADD", "", new.text, "message", "said", event.at)
    assert before <= event.at <= datetime.now(UTC)


async def test_what_is_there_already_is_left_out(store: Store) -> None:
    await added(store, "我喜欢 Cats。")
    same = ["我喜欢 Cats。", " 我喜欢  cats ", "我喜欢\nＣＡＴＳ！", "我喜欢 cats~"]
    assert await added(store, *same) == []
    other = [
        told("我喜欢 cats", kind="message"),
        told("我喜欢 cats", "group:8"),
        told("我喜欢 cat"),
        told("我喜欢cats"),
    ]
    assert len(await store.add(other, "x")) == 4
    assert len(await added(store, "新的", "新的。")) == 1


async def test_signs_alone_are_different_texts(store: Store) -> None:
    assert len(await added(store, "。。。", "!!!", "😀", "😁", "1.5", "15")) == 6


async def test_what_is_said_again_is_linked_to_all_who_say_it(store: Store, history: History) -> None:
    one, two = await said(history, "我喜欢猫"), await said(history, "我喜欢猫")
    (memory,) = await store.add([words_of(one)], "message")
    assert await store.add([words_of(two)], "message") == []
    assert await store.by_source("group:7", [two.id]) == [replace(memory, sources=(one.id, two.id))]


async def test_what_is_no_longer_true_may_be_told_again(store: Store) -> None:
    (id,) = await added(store, "小明住在上海")
    await store.expire(id, NOW, "x")
    assert await added(store, "小明住在上海") == [2]


@pytest.mark.parametrize("text", ["", " \n\t", "x" * (MAX_CHARS + 1), "a\0b", "\ud83d", "a\udfff"])
async def test_a_text_that_cannot_be_is_refused_with_all_told_beside_it(store: Store, text: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.add([told("好的"), told(text)], "x")
    assert await texts(store) == []
    (id,) = await added(store, "好的")
    with pytest.raises(InvalidRequest):
        await store.edit(id, text, "x")
    assert await texts(store) == ["好的"]


async def test_other_fields_are_looked_at_too(store: Store) -> None:
    for bad in (told("好的", "everybody"), told("好的", "member:@7"), told("好的", speaker_name="\ud83d")):
        with pytest.raises(InvalidRequest):
            await store.add([bad], "x")


async def test_the_longest_text_is_stored_and_found(store: Store) -> None:
    (id,) = await added(store, "喵" * (MAX_CHARS - 2) + "上海")
    assert await found(store, "上海") == [id]


async def test_a_batch_of_any_size_is_stored(store: Store) -> None:
    assert len(await added(store, *(f"第{n}件事" for n in range(205)))) == 205
    assert await added(store) == []


async def test_writers_at_the_same_time_store_each_text_once(store: Store) -> None:
    ids = await asyncio.gather(*(added(store, "新的", f"第{n}件事") for n in range(20)))
    assert sorted(id for some in ids for id in some) == [*range(1, 22)]


async def test_nothing_is_remembered_from_a_withdrawn_message(store: Store, history: History) -> None:
    kept, withdrawn = await said(history, "猫"), await said(history, "狗")
    await store.forget_messages("group:7", [withdrawn.id], "x")
    new = [words_of(kept), words_of(withdrawn), fact_of("小明喜欢猫", kept, withdrawn)]
    assert [memory.text for memory in await store.add(new, "x")] == ["猫"]


# How far a conversation has been remembered


async def test_a_point_moves_with_what_is_added_and_never_back(store: Store, history: History) -> None:
    message = await said(history, "猫")
    assert await store.point("group:7") == Point("group:7")
    await store.add([words_of(message)], "x", point=Point("group:7", indexed_to=5))
    await store.add([], "x", point=Point("group:7", extracted_to=3))
    await store.add([], "x", point=Point("group:7", indexed_to=4, extracted_to=2))
    await store.supersede([1], told("小明喜欢狗"), "x", point=Point("group:7", extracted_to=4))
    assert await store.point("group:7") == Point("group:7", 5, 4)
    assert await store.points() == {"group:7": Point("group:7", 5, 4)}


async def test_a_point_stays_if_nothing_can_be_added(store: Store, history: History) -> None:
    await said(history, "猫")
    with pytest.raises(InvalidRequest):
        await store.add([told("")], "x", point=Point("group:7", 5))
    assert await store.points() == {}


async def test_nothing_is_remembered_of_a_conversation_that_is_gone(store: Store, history: History) -> None:
    message = await said(history, "猫")
    await store.add([], "x", point=Point("group:7", 1))
    await history.delete("group:7")
    assert await store.add([words_of(message)], "x", point=Point("group:7", 2)) == []
    assert await store.supersede([], words_of(message), "x", point=Point("group:7", 2)) is None
    assert await texts(store) == []
    assert await store.points() == {}


# Changing


async def test_an_edited_memory_is_found_by_its_new_words_only(store: Store) -> None:
    (id,) = await added(store, "小明喜欢猫咪")
    await store.set_decodable([id], "0001")
    await store.put_vectors("s", [id], ["小明喜欢猫咪"], np.ones((1, 2), np.float32))
    memory = await store.edit(id, "小明喜欢小狗", "user:10001", "wrong")
    assert (memory.id, memory.text, memory.decodable) == (id, "小明喜欢小狗", "")
    assert await store.find(id) == memory
    assert await found(store, "小狗") == [id]
    assert await found(store, "猫咪") == []
    assert await store.vector(id, "s") is None
    assert (await events(store, id))[1:] == [("UPDATE", "小明喜欢猫咪", "小明喜欢小狗", "user:10001", "wrong")]


async def test_an_edit_without_a_change_changes_nothing(store: Store) -> None:
    (id,) = await added(store, "猫")
    await store.put_vectors("s", [id], ["猫"], np.ones((1, 2), np.float32))
    await store.edit(id, "猫", "x")
    assert await store.vector(id, "s") is not None
    assert len(await store.history(id)) == 1


async def test_an_edit_that_would_make_a_twin_or_a_ghost_is_refused(store: Store) -> None:
    cat, dog, old = await added(store, "猫", "狗", "鸟")
    await store.forget(await added(store, "鱼"), "x")
    await store.expire(old, NOW, "x")
    for id, text, sentence in ((cat, "狗。", "Memory 2 says"), (cat, "鱼", "forgotten"), (old, "虫", "is expired")):
        with pytest.raises(InvalidRequest, match=sentence):
            await store.edit(id, text, "x")
    assert (await store.edit(dog, "狗！", "x")).text == "狗！"
    assert await texts(store) == ["鸟", "狗！", "猫"]


async def test_a_newer_memory_takes_the_place_of_older_ones(store: Store) -> None:
    one, two, other = await added(store, "小明住在北京", "小明家在北京", "小明喜欢猫")
    await store.put_vectors("s", [one], ["小明住在北京"], np.ones((1, 2), np.float32))
    new = await store.supersede([one, two], replace(told("小明住在上海"), valid_from=LATER), "extract", "moved")
    assert new is not None
    assert await store.find(new.id) == new
    for id in (one, two):
        old = await store.find(id)
        assert (old.state, old.valid_to, old.superseded_by) == ("superseded", LATER, new.id)
        assert (await events(store, id))[1:] == [("SUPERSEDE", "", "", "extract", "moved")]
    assert set(await found(store, "小明 北京 上海 喜欢")) == {new.id, other}
    assert await store.vector(one, "s") is None
    assert [memory.id for memory in await store.seen([one, two, other, new.id], ALL)] == [other, new.id]


async def test_the_newer_memory_may_have_been_there(store: Store) -> None:
    old, new = await added(store, "小明住在北京", "小明住在上海")
    memory = await store.supersede([old, new], told("小明住在上海。"), "x")
    assert memory == await store.find(new)
    assert await store.count() == {"searchable": 1, "superseded": 1, "expired": 0, "deleted": 0}


async def test_a_forgotten_memory_takes_no_place_and_gives_none(store: Store) -> None:
    old, gone = await added(store, "小明住在北京", "小明住在上海")
    await store.forget([gone], "x")
    assert await store.supersede([old], told("小明住在上海"), "x") is None
    assert (await store.find(old)).state == "searchable"
    new = await store.supersede([gone], told("小明住在广州"), "x")
    assert new is not None
    with pytest.raises(NotFound):
        await store.find(gone)


async def test_what_has_expired_is_not_found_but_kept(store: Store) -> None:
    (id,) = await added(store, "小明明天去上海")
    memory = await store.expire(id, LATER, "extract", "past")
    assert (memory.state, memory.valid_to) == ("expired", LATER)
    assert await store.expire(id, NOW, "x") == memory == await store.find(id)
    assert await found(store, "上海") == []
    assert (await events(store, id))[1:] == [("EXPIRE", "", "", "extract", "past")]


async def test_a_memory_is_pinned_and_unpinned(store: Store) -> None:
    (id,) = await added(store, "猫")
    for pinned in (True, True, False, False):
        assert (await store.pin(id, pinned, "x")).pinned is pinned is (await store.find(id)).pinned
    assert [name for name, *_ in await events(store, id)] == ["ADD", "PIN", "UNPIN"]


async def test_recalls_are_counted(store: Store) -> None:
    one, two = await added(store, "猫", "狗")
    await store.used([two])
    before = datetime.now(UTC)
    await store.used([two, 99])
    memory = await store.find(two)
    assert memory.hits == 2
    assert memory.used_at is not None
    assert before <= memory.used_at <= datetime.now(UTC)
    assert (await store.find(one)).hits == 0


async def test_what_the_model_can_write_is_noted_until_it_is_no_longer_true(store: Store) -> None:
    one, two = await added(store, "猫", "狗")
    await store.set_decodable([one, two], "0001")
    await store.expire(two, NOW, "x")
    await store.set_decodable([two], "0002")
    assert [(await store.find(id)).decodable for id in (one, two)] == ["0001", ""]


async def test_there_is_no_such_memory(store: Store) -> None:
    for id in (0, -1, 99, 2**63 - 1):
        changes = store.edit(id, "x", "x"), store.expire(id, NOW, "x"), store.pin(id, True, "x")
        for call in (store.find(id), store.history(id), *changes):
            with pytest.raises(NotFound, match=str(id)):
                await call


# Eviction


async def test_the_least_used_and_oldest_go_first_and_pinned_ones_never(store: Store) -> None:
    ids = await added(store, "过期", "从未一", "从未二", "从未三", "一次", "两次", "钉住", "早一次")
    over, never, never2, never3, once, twice, pinned, once_before = ids
    await store.used([once_before])
    await store.used([once, twice, over, over])
    await store.used([twice])
    await store.pin(pinned, True, "x")
    await store.expire(over, NOW, "x")
    assert await store.evict(8) == []
    assert await store.evict(6) == [over, never]
    assert await store.evict(4) == [never2, never3]
    assert await store.evict(0) == [once_before, once, twice]
    assert await texts(store) == ["钉住"]
    assert await events(store, never) == [("ADD", "", "", "api:test", ""), ("DELETE", "", "", "evict", "")]


async def test_what_was_evicted_may_be_remembered_again(store: Store, history: History) -> None:
    message = await said(history, "我喜欢猫")
    await store.add([words_of(message)], "message")
    assert await store.evict(0) == [1]
    assert [one.withdrawn for one in await history.messages("group:7", limit=9)] == [False]
    assert await found(store, "猫") == []
    assert [memory.id for memory in await store.add([words_of(message)], "message")] == [2]


# Choices


async def test_choices_are_made_and_taken_back(store: Store) -> None:
    for party, choice in (("user:1", "muted"), ("user:1", "muted"), ("group:7", "muted"), ("user:2", "open")):
        await store.set_choice(party, choice, True)  # type: ignore[arg-type]
    assert await store.choices("muted") == {"user:1", "group:7"}
    assert await store.choices("open") == {"user:2"}
    await store.set_choice("user:1", "muted", False)
    await store.set_choice("user:2", "muted", False)
    assert await store.choices("muted") == {"group:7"}
    assert await store.choices("open") == {"user:2"}


async def test_only_people_and_groups_choose(store: Store) -> None:
    for party in ("", "1", "global", "member:1@7", "private:1"):
        with pytest.raises(InvalidRequest):
            await store.set_choice(party, "muted", True)


# Reading


async def test_what_was_found_is_read_in_the_order_asked_and_within_the_view(store: Store) -> None:
    here = await added(store, "一", "二", "三")
    (there,) = await added(store, "四", scope="user:1")
    await store.expire(here[1], NOW, "x")
    asked = [here[2], there, 99, here[0], here[1]]
    assert [memory.id for memory in await store.seen(asked, View.of("group:7"))] == [here[2], here[0]]
    assert [memory.id for memory in await store.seen(asked, ALL)] == [here[2], there, here[0]]
    assert await store.seen([], ALL) == []
    assert len(await store.seen([*range(50_000)], ALL)) == 3


async def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    ids = await added(store, *(f"第{n}件" for n in range(5)))
    await store.forget([ids[3]], "x")
    await store.expire(ids[1], NOW, "x")
    first = await store.page(ALL, 2)
    second = await store.page(ALL, 9, before=first[-1].id)
    assert [memory.id for memory in (*first, *second)] == [ids[4], ids[2], ids[1], ids[0]]


async def test_pages_can_be_of_a_kind_a_state_a_subject(store: Store) -> None:
    new = [told("一"), told("二", kind="message"), told("三", subject_id="1"), told("四", "user:1", subject_id="1")]
    one, two, three, four = [memory.id for memory in await store.add(new, "x")]
    await store.expire(one, NOW, "x")
    pages = [
        await store.page(ALL, 9, kind="message"),
        await store.page(ALL, 9, state="expired"),
        await store.page(ALL, 9, state="deleted"),
        await store.page(ALL, 9, subject="1"),
        await store.page(View.of("group:7"), 9, subject="1"),
    ]
    assert [[memory.id for memory in page] for page in pages] == [[two], [one], [], [four, three], [three]]


async def test_ones_own_is_what_one_said_and_what_is_about_one(store: Store) -> None:
    new = [
        told("小明喜欢 Cats", "member:1@7", subject_id="1", speaker_id="1"),
        told("小红说小明喜欢狗", "member:2@7", subject_id="1", speaker_id="2"),
        told("小明说小红来了", "member:1@7", subject_id="2", speaker_id="1"),
        told("小红喜欢猫", "member:2@7", subject_id="2", speaker_id="2"),
        told("私下", "user:1", subject_id="1"),
        told("过去", "member:1@7", subject_id="1"),
    ]
    ids = [memory.id for memory in await store.add(new, "x")]
    await store.expire(ids[5], NOW, "x")
    assert [memory.id for memory in await store.own("1", View.of("group:7"))] == [ids[2], ids[1], ids[0]]
    assert [memory.id for memory in await store.own("1", View.of("private:1"))] == [ids[4], ids[2], ids[0]]
    assert [memory.id for memory in await store.own("1", ALL, "cATS")] == [ids[0]]
    assert await store.own("1", ALL, "%") == []


async def test_ones_own_may_be_many(store: Store) -> None:
    new = [told(f"第{n}件", "user:1", subject_id="1") for n in range(401)]
    await store.add(new, "x")
    assert [memory.id for memory in await store.own("1", ALL)] == [*range(401, 0, -1)]


async def test_memories_are_found_by_their_messages(store: Store, history: History) -> None:
    one, two = await said(history, "一"), await said(history, "二")
    new = [words_of(one), words_of(two), fact_of("都", one, two), fact_of("别处", one, conversation="group:8")]
    first, second, both, _ = await store.add(new, "x")
    assert await store.by_source("group:7", [one.id, 99]) == [first, both]
    assert await store.by_source("group:7", [two.id]) == [second, both]
    assert await store.by_source("group:8", [two.id]) == []


async def test_states_are_counted(store: Store) -> None:
    ids = await added(store, *"猫狗鸟鱼虫")
    await store.supersede(ids[:1], told("兔"), "x")
    await store.expire(ids[1], NOW, "x")
    await store.forget(ids[2:4], "x")
    assert await store.count() == {"searchable": 2, "superseded": 1, "expired": 1, "deleted": 2}


# Words


async def test_memories_are_found_by_their_words(store: Store) -> None:
    texts = ["我家的猫叫 团子", "我在上海交通大学读书", "昨天写了 Python。", "我去打球了", "身高4.5尺"]
    new = [told(text, kind="message", speaker_name="小红" if "打球" in text else "") for text in texts]
    ids = [memory.id for memory in await store.add(new, "x")]
    queries = ["你还记得团子吗？", "上海交通", "python", "小红今天在不在", "4.5"]
    assert [await found(store, query) for query in queries] == [[id] for id in ids]
    assert await found(store, "大学") == [ids[1]]
    assert await found(store, "ＰＹＴＨＯＮ") == [ids[2]]


async def test_the_memory_with_more_and_rarer_words_is_the_best(store: Store) -> None:
    ids = await added(store, "小明喜欢咖啡", "小红喜欢咖啡", "小明喜欢红茶", "小刚讨厌红茶", "小红跑步", "小刚跑步")
    matches = await store.lexical("小明 红茶", ALL, 3)
    assert matches[0].id == ids[2]
    assert {match.id for match in matches[1:]} == {ids[0], ids[3]}
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
    assert matches[0].score > matches[1].score > 0
    assert len(matches) == 3
    assert len(await store.lexical("小明 红茶", ALL, 1)) == 1


async def test_any_text_may_be_looked_for(store: Store) -> None:
    (id,) = await added(store, "团子是一只猫咪")
    for text in HARMLESS:
        assert await found(store, text) == []
        assert await found(store, f"团子 {text}") == [id]


async def test_the_rarest_words_are_looked_for_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qqmem.memory.store_words._MOST_ROWS", 2)
    ids = await added(store, "咖啡 红茶", "咖啡 跑步", "咖啡 上海")
    assert await found(store, "咖啡 红茶 上海") == [ids[0], ids[2]]
    assert await found(store, "咖啡") == ids


async def test_ids_that_differ_by_case_are_different_places(store: Store) -> None:
    for scope in ("user:a", "member:a@g", "group:g", "user:a_", "user:a-"):
        await added(store, "团子", scope=scope)
    assert await found(store, "团子", View.only(Scope.parse("user:A"))) == []
    assert await found(store, "团子", View.of("group:G")) == []
    assert await found(store, "团子", View.only(Scope.parse("user:a"))) == [1]
    assert await found(store, "团子", View.of("private:a")) == [1, 2]
    assert await found(store, "团子", View(frozenset())) == []


# Vectors


def space(id: str, floor: float = 2.5) -> Space:
    numbers = np.arange(12, dtype=np.float32)
    return Space(id, 3, numbers[:3], numbers[:6].reshape(2, 3), -numbers.reshape(4, 3), floor)


async def all_vectors(store: Store, id: str) -> dict[int, tuple[str, list[float]]]:
    pages = [page async for page in store.vectors(id)]
    assert all(vectors.dtype == np.float32 for _, _, vectors in pages)
    return {
        id: (scope, vector.tolist())
        for ids, scopes, vectors in pages
        for id, scope, vector in zip(ids, scopes, vectors, strict=True)
    }


async def test_a_space_comes_back_as_it_was(store: Store) -> None:
    for floor in (2.5, 0.1):
        await store.put_space(space("a", floor))
        kept = await store.space("a")
        assert kept is not None
        assert (kept.id, kept.dim, kept.floor) == ("a", 3, floor)
        for part in ("centre", "cohort_keys", "cohort_queries"):
            np.testing.assert_array_equal(getattr(kept, part), getattr(space("a"), part), strict=True)
    assert await store.space("b") is None


async def test_vectors_are_kept_for_each_space(store: Store) -> None:
    (one,) = await added(store, "猫")
    (two,) = await added(store, "狗", scope="user:1")
    vectors = np.array([[1, 2], [3, 4.5]], np.float32)
    assert await store.put_vectors("a", [one, two], ["猫", "狗"], vectors) == [one, two]
    assert await store.put_vectors("b", [one], ["猫"], np.array([[9]], np.float32)) == [one]
    assert await all_vectors(store, "a") == {one: ("group:7", [1, 2]), two: ("user:1", [3, 4.5])}
    assert await all_vectors(store, "b") == {one: ("group:7", [9])}
    assert await store.put_vectors("a", [two], ["狗"], vectors[:1]) == [two]
    vector = await store.vector(two, "a")
    assert vector is not None
    np.testing.assert_array_equal(vector, vectors[0], strict=True)
    await store.put_space(space("a"))
    await store.put_space(space("b"))
    await store.drop_other_spaces(["b"])
    assert await all_vectors(store, "a") == {}
    assert await all_vectors(store, "b") == {one: ("group:7", [9])}
    assert await store.space("a") is None
    assert await store.space("b") is not None


async def test_a_vector_of_what_is_no_longer_told_is_refused(store: Store) -> None:
    message = told("喜欢猫", kind="message", speaker_name="小明")
    ids = [memory.id for memory in await store.add([message, told("一"), told("二"), told("三")], "x")]
    await store.edit(ids[1], "改", "x")
    await store.expire(ids[2], NOW, "x")
    await store.forget([ids[3]], "x")
    told_then = ["小明：喜欢猫", "一", "二", "", "没有"]
    assert await store.put_vectors("a", [*ids, 99], told_then, np.ones((5, 2), np.float32)) == [ids[0]]
    assert await store.put_vectors("a", [], [], np.ones((0, 2), np.float32)) == []
    assert list(await all_vectors(store, "a")) == [ids[0]]


async def test_missing_are_the_newest_without_a_vector_in_that_space(store: Store) -> None:
    ids = await added(store, *"猫狗鸟鱼")
    await store.put_vectors("a", [ids[2]], ["鸟"], np.ones((1, 2), np.float32))
    await store.expire(ids[0], NOW, "x")
    assert [memory.id for memory in await store.missing("a", 9)] == [ids[3], ids[1]]
    assert [memory.id for memory in await store.missing("b", 2)] == [ids[3], ids[2]]


async def test_vectors_come_in_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qqmem.memory.spaces._PAGE", 2)
    ids = await added(store, *"猫狗鸟鱼虫")
    await store.put_vectors("a", ids, [*"猫狗鸟鱼虫"], np.ones((5, 3), np.float32))
    assert [found async for found, _, _ in store.vectors("a")] == [ids[:2], ids[2:4], ids[4:]]


# Restoring


async def whole(store: Store) -> list[tuple[Memory, Memory | None]]:
    """All memories without their ids, each with the newer one."""
    memories = {memory.id: memory for memory in await store.page(ALL, 1000)}
    bare = {id: replace(memory, id=0, superseded_by=None) for id, memory in memories.items()}
    pairs = [(bare[id], bare.get(memory.superseded_by or 0)) for id, memory in memories.items()]
    return sorted(pairs, key=lambda pair: (pair[0].created_at, pair[0].text, pair[0].kind))


async def full(store: Store, history: History) -> None:
    message = await said(history, "我喜欢猫")
    await store.add([told("无关")], "x")
    await store.add([words_of(message), fact_of("小明喜欢猫", message), told("住在北京"), told("明天下雨")], "x")
    await store.supersede([4], told("住在上海"), "x")
    await store.supersede([6], told("住在北京"), "x")
    await store.supersede([7], told("住在上海"), "x")
    await store.expire(5, LATER, "x")
    await store.pin(2, True, "x")
    await store.used([2, 3])
    await store.set_decodable([3], "0001")
    await store.forget([1], "x")


@pytest.mark.parametrize(("batch", "order"), [(100, -1), (100, 1), (1, 1)])  # in parts only from the newest on
async def test_all_is_restored_elsewhere_as_it_was(
    store: Store, history: History, tmp_path_factory: pytest.TempPathFactory, batch: int, order: int
) -> None:
    await full(store, history)
    exported = (await store.page(ALL, 1000))[::order]
    async with Database.open(tmp_path_factory.mktemp("other")) as db:
        other = Store(db)
        ids: dict[int, int] = {}
        back: list[Memory | None] = []
        for start in range(0, len(exported), batch):
            back += await other.restore(exported[start : start + batch], "api:test", "import", ids=ids)
        assert back == [await other.find(memory.id) for memory in back if memory]
        assert await whole(other) == await whole(store)
        assert await found(other, "北京 下雨") == []
        assert len(await found(other, "猫 上海")) == 3
        assert (await events(other, 1))[0][3:] == ("api:test", "import")
        assert await other.restore(exported, "x") == [None] * len(exported)


async def test_what_was_forgotten_since_is_not_restored(store: Store) -> None:
    ids = await added(store, "猫", "狗")
    exported = await store.page(ALL, 9)
    await store.forget(ids, "x")
    assert await store.restore([*exported, replace(exported[0], id=0, text="鸟")], "x") == [
        None,
        None,
        await store.find(3),
    ]


async def test_a_line_twice_in_one_file_is_restored_once(store: Store) -> None:
    (id,) = await added(store, "猫")
    twice = [replace(await store.find(id), id=0, text="狗")] * 2
    assert await store.restore(twice, "x") == [await store.find(2), None]
    assert (await store.find(2)).superseded_by is None


async def test_a_memory_that_cannot_be_is_not_restored(store: Store) -> None:
    (id,) = await added(store, "猫")
    memory = await store.find(id)
    for bad in (replace(memory, text="\0"), replace(memory, scope="x"), replace(memory, text="")):
        with pytest.raises(InvalidRequest):
            await store.restore([replace(memory, text="狗"), bad], "x")
    assert await texts(store) == ["猫"]


async def test_what_was_restored_in_parts_is_linked(store: Store) -> None:
    old, new = await added(store, "住在北京", "住在上海")
    await store.relink({old: new})
    assert [(await store.find(id)).superseded_by for id in (old, new)] == [new, None]


async def test_what_a_forgotten_memory_was_before_an_edit_is_not_restored_either(store: Store) -> None:
    ids = await added(store, "猫叫年糕")
    before = [await store.find(id) for id in ids]
    await store.edit(ids[0], "猫叫汤圆", "x")
    await store.forget(ids, "x")
    assert await store.restore(before, "x", "import") == [None]
