"""What a turn recalls: who triggers it, what may come in, what is kept of it."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qqmem.chat import Token
from qqmem.engine.types import Ask
from qqmem.recollection import Recollections
from qqmem.records import Incoming, Sender
from qqmem.settings import Recall as RecallSettings
from tests.mind import NOW, Mind, open_mind

CAT = "小明的猫叫年糕"
ASK = "小明的猫叫什么"
NEAR = "年糕好吃吗"
"""Near the cat, and not near enough by itself."""


def asking(prompt: str) -> str:
    """Writes <recall> at once, and speaks when it is over."""
    return "<recall>好的。"


def shown(mind: Mind, channel: str) -> str:
    return "".join(event.text for event in mind.events if isinstance(event, Token) and event.channel == channel)


async def test_the_model_recalls_by_itself(tmp_path: Path) -> None:
    async with open_mind(tmp_path, asking, trigger="model") as mind:
        memory = await mind.told(CAT)
        end = await mind.ask(ASK)
        assert (end.outcome, end.reply) == ("replied", "好的。")
        assert shown(mind, "memory") == CAT
        (recall,) = mind.recalls
        assert (recall.memory, recall.mode, recall.cue) == (memory.id, "spliced", "")
        (turn,) = await mind.history.turns("private:1", [1])
        assert turn.end.recalls == (recall,)
        assert {"text", "lexical"} <= recall.candidates[0]["lanes"].keys()


@pytest.mark.parametrize("thinks", [False, True])
async def test_a_release_decides_how_a_turn_opens(tmp_path: Path, thinks: bool) -> None:
    async with open_mind(tmp_path, thinks=thinks, release="0001", trigger="both") as mind:
        await mind.told(CAT)
        await mind.ask("一加一等于几")
        opening = mind.model.openings[0]
        assert opening is not None
        assert chr(opening.token) == ("我" if thinks else "<"), "the first token of what training opens a turn with"
        mind.model.openings.clear()
        await mind.ask(ASK)
        assert set(mind.model.openings) == {None}, "the score has decided"


@pytest.mark.parametrize(("release", "trigger"), [("", "model"), ("0001", "score")])
async def test_a_model_that_knows_nothing_of_openings_is_left_alone(tmp_path: Path, release: str, trigger: str) -> None:
    async with open_mind(tmp_path, release=release, trigger=trigger) as mind:
        await mind.ask("一加一等于几")
        assert set(mind.model.openings) == {None}


@pytest.mark.parametrize(("between", "recalls"), [([], 1), (["你说小明的猫呀。"], 0)])
async def test_what_the_bot_has_just_said_helps_to_find_what_the_answer_is_about(
    tmp_path: Path, between: list[str], recalls: int
) -> None:
    async with open_mind(tmp_path, lambda _: "你说小明的猫呀。", trigger="score") as mind:
        await mind.told(CAT, "group:9")
        await mind.ask(NEAR, "group:9")
        assert mind.recalls == [], "nothing stands before it"
        await mind.ask("一加一等于几", "group:9")
        for text in between:
            await mind.say(text, "group:9", "2")
        await mind.ask(NEAR, "group:9")
        assert len(mind.recalls) == recalls


async def test_what_the_bot_said_hours_ago_is_not_what_is_answered(tmp_path: Path) -> None:
    async with open_mind(tmp_path, lambda _: "你说小明的猫呀。", trigger="score") as mind:
        await mind.told(CAT, "group:9")
        await mind.ask("一加一等于几", "group:9")
        said = datetime.now(UTC)  # by the bot
        for hours, recalls in ((3, 0), (0, 1)):
            reply = await mind.say(NEAR, "group:9", addressed=True, at=said + timedelta(hours=hours))
            await reply.end()
            assert len(mind.recalls) == recalls


@pytest.mark.parametrize(
    ("release", "trigger", "at_first"), [("0001", "both", 0), ("0001", "score", 1), ("", "both", 1)]
)
async def test_a_talk_is_opened_by_a_memory_that_fits_clearly_if_the_model_may_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, trigger: str, at_first: int
) -> None:
    monkeypatch.setattr("qqmem.recollection.CLEAR", 100.0)
    async with open_mind(tmp_path, release=release, trigger=trigger, cooldown=0) as mind:
        await mind.told(CAT)
        await mind.ask(ASK)
        assert len(mind.recalls) == at_first
        await mind.ask(ASK)
        assert len(mind.recalls) == at_first + 1, "within the talk it is enough that it fits"
        await mind.say("大家好", "group:9", "2")
        await mind.told(CAT, "group:9")
        await mind.ask(ASK, "group:9")
        assert len(mind.recalls) == at_first + 2, "in a group it is enough that somebody has spoken"


async def test_who_starts_over_is_not_shown_what_was_said_and_remembered_all_the_same(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score") as mind:
        await mind.told(CAT)
        await mind.ask("我们刚才说到哪了")
        assert (await mind.ask("/重来")).reply.startswith("好，我们重新开始")
        await mind.ask(ASK)
        assert "我们刚才说到哪了" not in mind.prompt
        assert "重来" not in mind.prompt
        assert [recall.mode for recall in mind.recalls] == ["spliced"]


async def test_what_is_being_answered_is_part_of_what_is_begun_anew(tmp_path: Path) -> None:
    async with open_mind(tmp_path) as mind:
        await mind.ask("早先说的事")
        mind.model.gate = threading.Semaphore(0)
        mind.model.began.clear()
        reply = await mind.say("正在说的事", addressed=True)
        await asyncio.to_thread(mind.model.began.wait)
        await mind.ask("/reset")
        mind.model.gate.release(1000)
        assert (await reply.end()).outcome == "replied"
        await mind.ask("再说一件")
        assert "早先说的事" not in mind.prompt
        assert "正在说的事" in mind.prompt


async def test_a_turn_opens_with_a_recall_when_a_memory_fits(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score") as mind:
        await mind.told(CAT)
        end = await mind.ask(ASK)
        assert mind.prompt.endswith("<think>\n我先回想一下：<recall>")
        assert end.reply == "我记得，好的。"
        assert shown(mind, "think").startswith("我先回想一下：")
        assert [recall.mode for recall in mind.recalls] == ["spliced"]


async def test_a_turn_opens_as_ever_when_nothing_fits(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score") as mind:
        await mind.told(CAT)
        end = await mind.ask("一加一等于几")
        assert (end.reply, mind.recalls) == ("好的。", [])
        assert "<recall>" not in mind.prompt


async def test_a_model_that_thinks_goes_on_thinking_after_the_memory(tmp_path: Path) -> None:
    async with open_mind(tmp_path, lambda _: "想起来了</think>是年糕。", thinks=True, trigger="score") as mind:
        await mind.told(CAT)
        end = await mind.ask(ASK)
        assert mind.prompt.endswith("⟨assistant⟩我先回想一下：<recall>")
        assert end.reply == "是年糕。"
        assert shown(mind, "think") == "我先回想一下：想起来了"


async def test_score_alone_forbids_the_model_to_ask(tmp_path: Path) -> None:
    async with open_mind(tmp_path, asking, trigger="score") as mind:
        end = await mind.ask("一加一等于几")
        assert end.outcome == "failed", "the fake writes what is banned, and says so"


@pytest.mark.parametrize(("trigger", "recalled"), [("off", 0), ("model", 0), ("score", 1), ("both", 1)])
async def test_triggers(tmp_path: Path, trigger: str, recalled: int) -> None:
    async with open_mind(tmp_path, trigger=trigger) as mind:
        await mind.told(CAT)
        await mind.ask(ASK)
        assert len(mind.recalls) == recalled


async def test_nothing_found_is_said_to_the_model_and_stored(tmp_path: Path) -> None:
    async with open_mind(tmp_path, asking, trigger="model") as mind:
        await mind.told(CAT)
        end = await mind.ask("一加一等于几")
        assert end.reply == "好的。"
        (recall,) = mind.recalls
        assert (recall.mode, recall.memory) == ("none", None)
        assert (await mind.history.turns("private:1", [1]))[0].end.recalls == (recall,)


async def test_a_decodable_memory_is_written_by_the_model_and_checked(tmp_path: Path) -> None:
    for by_heart, mode in ((CAT, "decoded"), ("小明的狗叫年糕", "spliced")):
        options = {"by_heart": by_heart, "release": "0001", "trigger": "model"}
        async with open_mind(tmp_path / mode, asking, **options) as mind:  # type: ignore[arg-type]
            memory = await mind.told(CAT)
            await mind.memories.store.set_decodable([memory.id], "0001")
            await mind.ask(ASK)
            assert [recall.mode for recall in mind.recalls] == [mode]
            assert shown(mind, "memory") == CAT


async def test_a_memory_made_under_another_release_is_spliced(tmp_path: Path) -> None:
    async with open_mind(tmp_path, asking, by_heart=CAT, release="0002", trigger="model") as mind:
        memory = await mind.told(CAT)
        await mind.memories.store.set_decodable([memory.id], "0001")
        await mind.ask(ASK)
        assert [recall.mode for recall in mind.recalls] == ["spliced"]


async def test_the_same_memory_comes_once_a_turn_and_recalls_are_limited(tmp_path: Path) -> None:
    async with open_mind(tmp_path, lambda _: "<recall><recall><recall>好的。", trigger="model", max_per_turn=3) as mind:
        cat, dog = await mind.told(CAT), await mind.told("小明的狗叫什么都好，叫豆豆")
        await mind.ask(ASK)
        assert mind.chosen == [cat.id, dog.id, None]


async def test_a_memory_rests_for_some_turns(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score", cooldown=2) as mind:
        cat = await mind.told(CAT)
        for _ in range(4):
            await mind.ask(ASK)
        assert mind.chosen == [cat.id, cat.id], "in the first turn, and again after two others"


async def test_what_the_prompt_shows_is_not_recalled(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score", chat={"history_tokens": 256}) as mind:
        await mind.ask("我家的猫叫年糕，很能吃")
        await mind.remember.settle()
        await mind.ask("我家的猫叫什么，很能吃吧")
        assert mind.recalls == []
        for _ in range(4):
            await mind.ask("说点别的" + "，今天天气很好" * 6)
        await mind.ask("我家的猫叫什么，很能吃吧")
        assert len(mind.recalls) == 1


async def test_what_the_prompt_shows_is_not_recalled_because_it_was_also_said_elsewhere(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score", cooldown=0) as mind:
        said = "我家的猫叫年糕，很能吃"
        for conversation in ("group:7", "private:1"):
            await mind.ask(said, conversation)
        await mind.remember.settle()
        mind.events.clear()
        await mind.ask("我家的猫叫什么，很能吃吧")
        assert mind.recalls == []
        other = await mind.told(f"{said}，三岁了")
        await mind.ask("我家的猫叫什么，很能吃吧")
        assert mind.chosen == [other.id]


async def test_the_words_that_lead_into_a_recall_are_not_looked_for(tmp_path: Path) -> None:
    async with open_mind(tmp_path) as mind:
        await mind.told(CAT)
        message, _ = await mind.history.add(Incoming("private:1", Sender("1", "小明"), ASK, NOW))
        recollections = Recollections(mind.memories, mind.history, RecallSettings())
        cues = []
        for written in ("我先想：", "<think>\n我先想：", "<think>\n我先想：猫", "猫，我先想："):
            turn = await recollections.begin("private:1", [message], [message.id], guide="我先想：")
            await turn.find(Ask(np.zeros(2, np.float32), written))
            cues.append(turn.closed("none").cue)
        assert cues == ["", "", "猫", "猫，我先想："]


async def test_what_becomes_a_memory_while_it_is_answered_is_not_recalled(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="model") as mind:
        sender = Sender("1", "小明")
        message, _ = await mind.history.add(Incoming("private:1", sender, "我家的猫叫年糕，很能吃", NOW))
        recollections = Recollections(mind.memories, mind.history, RecallSettings())
        turn = await recollections.begin("private:1", [message], [message.id])
        later = await recollections.begin("private:1", [message], [message.id + 1])
        cited: dict[str, Any] = {"kind": "message", "conversation": "private:1", "sources": (message.id,)}
        memory = await mind.told(message.text, **cited)
        assert not await turn.is_called_for()
        assert await turn.find(Ask(np.zeros(2, np.float32), "猫")) is None
        found = await later.find(Ask(np.zeros(2, np.float32), "猫"))
        assert found is not None
        assert found.text == memory.told


async def test_only_the_memory_that_came_in_counts_as_used(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score") as mind:
        cat, other = await mind.told(CAT), await mind.told("小明的猫不爱洗澡")
        await mind.ask(ASK)
    async with open_mind(tmp_path) as mind:
        found = {memory.id: memory.hits for memory in [await mind.memories.store.find(id) for id in (cat.id, other.id)]}
        assert found == {cat.id: 1, other.id: 0}


async def test_private_memories_stay_out_of_groups_unless_their_owner_allows_it(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score") as mind:
        cat = await mind.told(CAT, "user:1")
        await mind.ask(ASK, "group:9")
        await mind.memories.store.set_choice("user:1", "open", True)
        await mind.ask(ASK, "group:9", qq="2")
        assert mind.recalls == [], "and then only in turns of their own"
        await mind.ask(ASK, "group:9")
        assert mind.chosen == [cat.id]


async def test_who_says_i_is_answered_about_themselves(tmp_path: Path) -> None:
    async with open_mind(tmp_path, trigger="score", cooldown=0) as mind:
        named = {"kind": "message", "conversation": "group:9"}
        ming = await mind.told("我的猫叫年糕", "member:1@9", **named)
        more = {"subject_id": "2", "speaker_id": "2", "speaker_name": "小红"}
        hong = await mind.told("我的猫叫团子", "member:2@9", **named | more)
        for qq in ("1", "2"):
            await mind.ask("我的猫叫什么", "group:9", qq)
        await mind.ask("小红的猫叫什么", "group:9", "3")
        assert mind.chosen == [ming.id, hong.id, hong.id]


async def test_a_temperature_draws_among_those_that_fit(tmp_path: Path) -> None:
    drawn = iter([0.0, 0.999])

    async with open_mind(tmp_path) as mind:
        cat, milk = await mind.told(CAT), await mind.told("小明的猫叫起来很大声")
        settings = RecallSettings(temperature=10.0)
        recollections = Recollections(mind.memories, mind.history, settings, chance=lambda: next(drawn))
        found = [await first(mind, recollections) for _ in range(2)]
        assert found == [CAT, milk.text]
        assert cat.id != milk.id


async def first(mind: Mind, recollections: Recollections) -> str:
    """The text that a first recall brings."""
    message, _ = await mind.history.add(Incoming("private:1", Sender("1", "小明"), ASK, NOW))
    recollection = await recollections.begin("private:1", [message], ())
    assert await recollection.is_called_for()
    found = await recollection.find(Ask(np.zeros(2, np.float32), ""))
    assert found is not None
    return found.text
