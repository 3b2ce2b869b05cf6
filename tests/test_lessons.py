"""What is trained on: which memories, what makes one think of them, and ordinary conversations beside them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from qqmem.errors import EngineStopped, PromptTooLong
from qqmem.lessons import Lesson, Lessons, questions_in, topic_of
from qqmem.memory.extract import Answer
from qqmem.practice import Chat, Writer, parse, read, split, whole
from qqmem.train.records import read_run
from tests.learning import VOICE, Bot, Characters, Played, learning
from tests.memory.records import NOW, fact_of, said, told, words_of

COFFEE = "小明喜欢黑咖啡，不加糖"


@pytest.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    async with learning(tmp_path, Characters()) as bot:
        yield bot


async def drawn(bot: Bot, most: int = 100, num_questions: int = 4) -> dict[str, Lesson]:
    lessons = Lessons(bot.memories, bot.history, bot.played.ask, VOICE.words, num_questions)
    found, _ = await lessons.draw(most, lambda done, of: None)
    return {one.memory.text: one for one in found}


def texts(lesson: Lesson, kind: str) -> list[str]:
    return [cue.text for cue in lesson.cues if cue.kind == kind]


async def test_a_memory_has_its_message_questions_and_thoughts_as_cues(bot: Bot) -> None:
    message = await said(bot.history, "我只喝黑咖啡，不加糖")
    await bot.memories.add([fact_of(COFFEE, message)], "test")
    bot.played.answer = lambda _: "1. 小明平时喝什么？\n2. 你记得小明的口味吗\n3. 小明喜欢喝哪种咖啡？\n好的，就这些。"
    lesson = (await drawn(bot))[COFFEE]
    assert texts(lesson, "source") == ["我只喝黑咖啡，不加糖"]
    own = ["小明平时喝什么？", "你记得小明的口味吗", "小明喜欢喝哪种咖啡？"]
    assert texts(lesson, "question") == own
    assert lesson.held_out[0].text not in own
    assert len(texts(lesson, "thought")) == 2
    assert np.linalg.norm(lesson.value) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "rubbish", ["", "好的。", COFFEE, "小明喜欢黑咖啡，不加糖吗？", "？？？？？", "x" * 500 + "？"]
)
async def test_our_questions_stand_in_for_rubbish(bot: Bot, rubbish: str) -> None:
    await bot.remember(COFFEE)
    bot.played.answer = lambda _: rubbish
    lesson = (await drawn(bot))[COFFEE]
    asked = [*texts(lesson, "question"), *(cue.text for cue in lesson.held_out)]
    assert len(asked) == len(set(asked)) == 4
    assert all("小明喜欢黑咖啡" in text and text != COFFEE for text in asked)


@given(st.text(max_size=200), st.text(min_size=1, max_size=40))
def test_questions_are_read_from_anything(answer: str, memory: str) -> None:
    for text in questions_in(answer, memory):
        assert 4 <= len(text) <= 60
        assert "\n" not in text
        assert text != memory
    assert len(topic_of(memory)) <= 14


async def test_with_one_question_there_is_still_one_to_train_and_one_to_test(bot: Bot) -> None:
    await bot.remember(COFFEE)
    lesson = (await drawn(bot, num_questions=1))[COFFEE]
    assert (len(texts(lesson, "question")), len(lesson.held_out)) == (1, 1)


async def test_older_versions_are_in_no_file(bot: Bot) -> None:
    (first,) = await bot.remember("小明住在北京")
    second = await bot.memories.supersede([first.id], told("小明住在上海", "user:10001"), "test")
    assert second is not None
    later = told("小明住在深圳", "user:10001", valid_from=NOW + timedelta(days=1))
    await bot.memories.supersede([second.id], later, "test")
    found = await drawn(bot)
    assert list(found) == ["小明住在深圳"]
    assert not any(old in str([one.line for one in found.values()]) for old in ("北京", "上海"))


async def test_withdrawn_messages_are_no_cues(bot: Bot) -> None:
    first = await said(bot.history, "我喜欢黑咖啡", message_id="m1")
    again = await said(bot.history, "黑咖啡不加糖", message_id="m2")
    await bot.memories.add([fact_of(COFFEE, first, again)], "test")
    await bot.history.withdraw("group:7", "m1")
    assert texts((await drawn(bot))[COFFEE], "source") == ["黑咖啡不加糖"]


async def test_the_most_important_come_first_and_questions_are_left_out(bot: Bot) -> None:
    for text in ("我今天去爬山了", "今天吃什么？"):
        await bot.memories.add([words_of(await said(bot.history, text))], "test")
    _, used, pinned = await bot.remember("小明甲", "小明乙", "小明丙")
    await bot.remember("小明丁")
    await bot.memories.store.used([used.id])
    await bot.memories.pin(pinned.id, True, "test")
    assert list(await drawn(bot)) == ["小明丙", "小明乙", "小明丁", "小明甲", "我今天去爬山了"]
    assert list(await drawn(bot, most=2)) == ["小明丙", "小明乙"]


async def test_what_is_forgotten_while_the_model_writes_is_left_out(bot: Bot) -> None:
    _, second = await bot.remember("小明甲", "小明乙")

    class Slow(Played):
        async def ask(self, system: str, user: str) -> Answer:
            await bot.memories.forget([second.id], "test")  # which it was asked about first
            return Answer("", True)

    bot.played = Slow(bot.folder)
    assert list(await drawn(bot)) == ["小明甲"]


async def test_a_memory_that_is_too_long_to_ask_about_has_our_questions(bot: Bot) -> None:
    def fault(name: str) -> None:
        raise PromptTooLong("too long")

    await bot.remember(COFFEE)
    bot.played.fault = fault
    assert len((await drawn(bot))[COFFEE].held_out) == 1


async def test_people_telling_something_need_no_memory(bot: Bot) -> None:
    asked = await said(bot.history, "你知道我喜欢什么吗？", message_id="1")
    telling = await said(bot.history, "我喜欢黑咖啡", message_id="2")
    await bot.memories.add([fact_of(COFFEE, asked, telling)], "test")
    lessons = Lessons(bot.memories, bot.history, bot.played.ask, VOICE.words, 2)
    found = lessons.negatives((await drawn(bot)).values())
    assert ("我喜欢黑咖啡" in found, "你知道我喜欢什么吗？" in found, len(found) > 15) == (True, False, True)


async def test_the_files_are_such_as_the_trainers_read(bot: Bot) -> None:
    await bot.remember(COFFEE, "小明养了一只猫")
    bot.plan(stage1=[["exit", 1]])
    bot.played.starter = bot.folder / "starter"
    kept = bot.run_folder(1)

    async def gone(*_: Any) -> None:
        pass

    bot.learn.tidy = gone  # type: ignore[method-assign]
    await bot.run()
    run = await asyncio.to_thread(read_run, kept)
    assert {one.text for one in run.memories} == {COFFEE, "小明养了一只猫"}
    assert all(one.cues and one.held_out for one in run.memories)
    assert (run.values.shape, run.centre.shape) == ((2, 64), (64,))
    assert (run.bot_name, run.settings["stage2"]["epochs"], bool(run.sft), bool(run.negatives)) == (
        "小忆",
        4,
        True,
        True,
    )
    assert run.starter == bot.folder / "starter"
    assert len(run.sft) > 32, "those that were made up, too"
    assert any(one.before for one in run.negatives), "talk of several turns"
    assert len(run.held_out_sft) == 4
    assert not set(run.sft) & set(run.held_out_sft)
    assert run.prompts.phrase("guide") == VOICE.prompts.phrase("guide")


# Ordinary conversations


def chat(asked: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"messages": chat("问", "答")}, chat("问", "答")),
        ({"instruction": "翻译", "input": "你好", "output": "hello"}, chat("翻译\n你好", "hello")),
        ({"instruction": "问", "input": "", "answer": "答"}, chat("问", "答")),
        ({"query": "问", "response": "答", "source": 3}, chat("问", "答")),
        ({"question": "问", "answer": "答"}, chat("问", "答")),
    ],
)
def test_known_forms_of_a_line(line: dict[str, Any], found: list[dict[str, str]]) -> None:
    assert parse(json.dumps(line).encode()) == found


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "object"),
        (b"{}", "no messages"),
        (b'{"query": "a"}', "no messages"),
        (b'{"query": "a", "response": " "}', "empty"),
        (b'{"query": 3, "response": "a"}', "empty"),
        (b'{"messages": []}', "list"),
        (b'{"messages": ["a"]}', "role"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "nobody answers"),
        (b'{"messages": [{"role": "bot", "content": "a"}]}', "role"),
        (b" " * (2**20 + 1), "MiB"),
    ],
)
def test_broken_lines_are_sentences(line: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(line)


def test_a_file_is_read_around_its_broken_lines(tmp_path: Path) -> None:
    file = tmp_path / "sft.jsonl"
    good = [json.dumps({"query": f"问{n}", "response": "答"}) for n in range(100)]
    file.write_text("\n".join([*good, "{", "", *["[]"] * 70]), "utf-8")
    found = read(file, 10, seed=1)
    assert (len(found.chats), found.num_faults, len(found.faults)) == (10, 71, 50)
    assert found.faults[0].startswith("line 101: ")
    assert read(file, 10, seed=1) == found != read(file, 10, seed=2)
    assert len(read(file, 1000, seed=1).chats) == 100
    for content in ("", "\n\n", "x"):
        file.write_text(content)
        assert (read(file, 10, 1).chats, "no conversation" in read(file, 10, 1).faults[-1]) == ([], True)
    assert "cannot be read" in read(tmp_path / "nothing", 10, 1).faults[0]


async def test_a_missing_file_is_made_up_for_and_reported(tmp_path: Path) -> None:
    async with learning(tmp_path, Characters(), sft_path=tmp_path / "nothing") as bot:
        await bot.remember(COFFEE)
        sft = (await bot.run()).metrics["export"]["sft"]
        assert (sft["own"], sft["num_faults"], len(sft["faults"])) == (True, 1, 1)
        num = len(VOICE.words["practice"])
        assert (sft["chats"], sft["held_out"]) == (num - num // 8, num // 8)


async def test_the_model_writes_once_and_again_for_another_model(tmp_path: Path) -> None:
    asked = list[str]()

    async def ask(system: str, user: str) -> Answer:
        asked.append(user)
        return Answer(("", " \n")[len(asked) - 3] if len(asked) in (3, 4) else f"答{user}", True)

    first = await Writer(ask, VOICE.words, "你是小忆", tmp_path, "tiny").chats(lambda done, of: None)
    assert (len(asked), len(first)) == (len(VOICE.words["practice"]), len(asked) - 2)
    assert [one["role"] for one in first[0]] == ["system", "user", "assistant"]
    assert await Writer(ask, VOICE.words, "你是小忆", tmp_path, "tiny").chats(lambda done, of: None) == first
    assert len(asked) == len(VOICE.words["practice"])
    await Writer(ask, VOICE.words, "你是小忆", tmp_path, "big").chats(lambda done, of: None)
    assert len(asked) == 2 * len(VOICE.words["practice"])
    next(tmp_path.glob("own-*")).write_text('{"mess')
    assert await Writer(ask, VOICE.words, "你是小忆", tmp_path, "tiny").chats(lambda done, of: None)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("好的。第一，要多喝水。第二，要早", "好的。第一，要多喝水。"),
        ("他说：“走吧！”然后就", "他说：“走吧！”"),
        ("Yes. It costs 3.5 dollars and", "Yes."),
        ("- 苹果\n- 香", "- 苹果"),
        ("没有写完的一句", "没有写完的一句"),
        ("写完了。", "写完了。"),
        (" \n", ""),
    ],
)
def test_an_answer_that_was_broken_off_is_kept_up_to_its_last_sentence(text: str, kept: str) -> None:
    assert whole(Answer(text, complete=False)) == kept
    assert whole(Answer(text, complete=True)) == text.strip()


async def test_many_are_written_at_once_and_stay_in_order(tmp_path: Path) -> None:
    openings = [f"问{n}" for n in range(9)]
    running, widest, told = 0, 0, list[tuple[int, int]]()

    async def ask(system: str, user: str) -> Answer:
        nonlocal running, widest
        running += 1
        widest = max(widest, running)
        for _ in range(10 - int(user[1:])):  # the first come last
            await asyncio.sleep(0)
        running -= 1
        return Answer(f"答{user[1:]}", True)

    words = {**VOICE.words, "practice": openings}
    chats = await Writer(ask, words, "", tmp_path, "tiny", 3).chats(lambda done, of: told.append((done, of)))
    assert chats == [chat(f"问{n}", f"答{n}") for n in range(9)]
    assert (widest, told) == (3, [(n, 9) for n in range(10)])


async def test_if_one_fails_the_others_end(tmp_path: Path) -> None:
    begun, left = list[str](), list[str]()

    async def ask(system: str, user: str) -> Answer:
        begun.append(user)
        await asyncio.sleep(0)
        if user == "问2":
            raise EngineStopped("stopped")
        try:
            await asyncio.Event().wait()
        finally:
            left.append(user)
        raise AssertionError

    words = {**VOICE.words, "practice": [f"问{n}" for n in range(9)]}
    with pytest.raises(EngineStopped):
        await Writer(ask, words, "", tmp_path, "tiny", 3).chats(lambda done, of: None)
    assert left == [one for one in begun if one != "问2"]
    assert {"问0", "问1"} <= set(left) < {f"问{n}" for n in range(9)}


@pytest.mark.parametrize(("num", "held_out"), [(0, 0), (1, 0), (2, 1), (8, 1), (15, 1), (16, 2), (400, 50)])
def test_some_conversations_are_held_out(num: int, held_out: int) -> None:
    chats: list[Chat] = [chat(f"问{n}", "答") for n in range(num)]
    trained, tested = split(chats, seed=1)
    assert (len(trained), len(tested)) == (num - held_out, held_out)
    assert sorted(map(str, trained + tested)) == sorted(map(str, chats))
    assert split(chats, seed=1) == (trained, tested)


async def test_a_model_that_writes_nothing_gets_ours(tmp_path: Path) -> None:
    async def ask(system: str, user: str) -> Answer:
        return Answer("", True)

    assert len(await Writer(ask, VOICE.words, "", tmp_path, "tiny").chats(lambda done, of: None)) == 5
    assert list(tmp_path.iterdir()) == []

    async def stopped(system: str, user: str) -> Answer:
        raise EngineStopped("stopped")

    with pytest.raises(EngineStopped):
        await Writer(stopped, VOICE.words, "", tmp_path, "tiny").chats(lambda done, of: None)


def test_both_languages_have_the_same_words() -> None:
    from qqmem.run_parts import Voice

    other = Voice.load(VOICE.prompts, "x", "en").words
    assert other.keys() == VOICE.words.keys()
    for words in (other, VOICE.words):
        assert all(
            isinstance(text, str) for name in ("topics", "thoughts", "quiet", "practice") for text in words[name]
        )
        assert all("{topic}" in text for name in ("topics", "thoughts") for text in words[name])
        assert "{n}" in words["questions"]
        assert len(lines_of(words)) == len(set(lines_of(words)))


def lines_of(words: Any) -> list[str]:
    return [*words["topics"], *words["quiet"], *words["practice"]]
