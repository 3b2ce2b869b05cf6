from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qqmem.cli_eval import app
from qqmem.engine.prompt import Prompts
from qqmem.errors import InvalidRequest
from qqmem.evals.cases import NEEDS, Case, told, trial
from qqmem.evals.data import Turn, load
from qqmem.evals.figures import Draws
from qqmem.evals.trigger import Model, Score, Trigger, evaluate
from qqmem.memory.types import NewMemory
from qqmem.settings import Settings
from tests.fakes_engine import CharTokenizer, Recital, ScriptedModel

EVENTS = [{"1": {"event": "小川在运动会上拿了跳远冠军。", "user-id": 7, "id": "1"}}]
TALK = {
    "dialogue": [
        "<BOD>\n",
        "<Ming>:\"今天好热。\"\n",
        "<Assistant>:\"多喝水。\"\n",
        "<Ming>:\"我又想去跳远了。\"\n",
        "<Assistant>:\"你拿过冠军呢。\"\n",
        " <Assistant>:\"记得你跳远得过奖。\"\n",
        "<Ming>:\"对！\"\n",
        "<Assistant>:\"再去一次吧。\"\n",
        "<Ming>:\"好，明天就去。\"\n",
        "<Assistant>:\"加油。\"\n",
        "<EOD>\n",
    ],
    "test-turn": [4, 6],
    "relevant-id": [1],
    "user-id": 7,
    "id": 0,
}  # fmt: skip
FOREIGN: dict[str, list[dict[str, Any]]] = {
    "smilechat": [{"messages": [{"role": "user", "content": "我睡不着"}, {"role": "assistant", "content": "怎么了"}]}],
    "kdconv": [{"messages": [{"message": "看过这部电影吗"}, {"message": "看过"}, {"message": "好看吗"}]}],
    "alpaca-zh": [{"instruction": "翻译", "input": "你好", "output": "hello"}, {"instruction": "写诗", "input": ""}],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder as the evaluation wants it, all sets in small."""
    folder = tmp_path / "data"
    for name in ("madial-zh", *FOREIGN):
        (folder / name).mkdir(parents=True)
    (folder / "madial-zh/a-memory.json").write_text("\n".join(map(json.dumps, EVENTS)), "utf-8")
    (folder / "madial-zh/a-dialogue.json").write_text(json.dumps(TALK), "utf-8")
    for name, content in FOREIGN.items():
        is_lines = name == "smilechat"
        text = "\n".join(map(json.dumps, content)) if is_lines else json.dumps(content)
        (folder / name / ("a.jsonl" if is_lines else "a.json")).write_text(text, "utf-8")
    return folder


@pytest.fixture
def prompts() -> Prompts:
    return Prompts.load("zh", None, Settings().chat.prompt_order)


def case(kind: str, text: str = "", dialogue: str = "d", scope: str = "user:1") -> Case:
    return Case(kind, text, frozenset({scope}), dialogue)


LONG = "啊" * 900


class Unfinished(ScriptedModel):
    """left: how much it had yet to write when it ended."""

    left = 0

    def release(self, running: object, keep: str | None) -> None:
        assert isinstance(running, Recital)
        self.left = len(running.script)
        super().release(running, keep)


def says(answer: Callable[[str], bool]) -> Trigger:
    async def trigger(case: Case) -> bool:
        return answer(case.text)

    return trigger


# Figures


def test_a_ratio_is_over_all_and_its_interval_over_dialogues() -> None:
    draws = Draws(["a", "a", "a", "b"])
    figure = draws.ratio([1, 1, 1, 0], [1, 1, 1, 1])
    assert (draws.num, figure.value) == (2, 0.75)
    assert (figure.low, figure.high) == (0, 1)  # now and then only one of the two dialogues is drawn
    assert draws.mean([3, 0, 0, 1]).value == 1
    assert str(draws.mean([1, 1, 1, 1])) == "1.000 [1.00 1.00]"


def test_draws_with_nothing_below_do_not_count() -> None:
    draws = Draws(["a", "b"])
    figure = draws.ratio([1, 0], [1, 0])
    assert figure.as_json() == [1, 1, 1]


def test_nothing_to_measure_is_no_number() -> None:
    figure = Draws(["a"]).ratio([0], [0])
    assert (str(figure), figure.as_json()) == ("-", None)


# Cases


def test_a_turn_worded_in_two_ways_counts_once(data: Path) -> None:
    corpus = load(data / "madial-zh")
    assert [question.text for question in corpus.questions] == ["我又想去跳远了。", "对！"]
    assert [question.text for question in corpus.others] == ["今天好热。", "好，明天就去。"]
    assert not any(question.gold for question in corpus.others)
    assert [question.text for question in load(data / "madial-zh", 1).questions][1] == "你拿过冠军呢。 对！"


def test_a_test_turn_of_a_user_is_refused(data: Path) -> None:
    (data / "madial-zh/a-dialogue.json").write_text(json.dumps({**TALK, "test-turn": [3]}), "utf-8")
    with pytest.raises(InvalidRequest, match="line 1 is not"):
        load(data / "madial-zh")


def test_all_kinds_are_there(data: Path) -> None:
    found = trial(data)
    texts = {kind: [case.text for case in found.cases if case.kind == kind] for kind in NEEDS}
    assert texts["madial"] == ["我又想去跳远了。", "对！"]
    assert texts["madial-other"] == ["今天好热。", "好，明天就去。"]
    assert texts["told"] == [fact.ask for fact in told()]
    assert texts["telling"] == [fact.tell for fact in told()]
    assert texts["smilechat"] == ["我睡不着"]
    assert texts["kdconv"] == ["看过这部电影吗", "好看吗"]
    before = {one.text: [(turn.role, turn.text) for turn in one.before] for one in found.cases}
    assert before["好看吗"] == [("user", "看过这部电影吗"), ("assistant", "看过")]
    assert before["我睡不着"] == []
    assert texts["alpaca-zh"] == ["翻译\n你好", "写诗"]
    assert found.missing == []


def test_nobody_is_told_what_he_knows_and_everybody_knows_what_he_asks(data: Path) -> None:
    found = trial(data)
    known = {memory.text: memory.scope for memory in found.memories}
    answers = {fact.ask: fact.tell for fact in told()}
    for one in found.cases:
        if one.kind == "telling":
            assert known[one.text] not in one.scopes
            assert one.scopes < set(known.values())
        if one.kind == "told":
            assert known[answers[one.text]] in one.scopes


def test_foreign_talk_is_with_one_who_is_remembered(data: Path) -> None:
    found = trial(data)
    scopes = {memory.scope for memory in found.memories}
    assert {one.scopes for one in found.cases if one.kind in FOREIGN} == {frozenset(scopes)}
    assert {memory.kind for memory in found.memories if memory.text == told()[0].tell} == {"message"}


def test_a_limit_draws_by_the_seed(data: Path) -> None:
    first, same, other = (trial(data, 5, seed).cases for seed in (1, 1, 2))
    assert first == same != other
    kinds = [one.kind for one in first]
    assert {kind: kinds.count(kind) for kind in ("told", "telling", "smilechat")} == {
        "told": 5,
        "telling": 5,
        "smilechat": 1,
    }


def test_a_foreign_folder_may_be_missing_and_madial_may_not(data: Path) -> None:
    (data / "kdconv").rename(data / "else")
    found = trial(data)
    assert found.missing == ["kdconv"]
    assert "kdconv" not in {one.kind for one in found.cases}
    (data / "madial-zh").rename(data / "gone")
    with pytest.raises(InvalidRequest, match="no folder madial-zh"):
        trial(data)


@pytest.mark.parametrize("content", ["{", "[1]", "[]", '[{"messages": [{}]}]', "\udcff"])
def test_a_strange_foreign_file_is_refused(data: Path, content: str) -> None:
    (data / "kdconv/a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidRequest, match="kdconv"):
        trial(data)


def test_told_facts_are_all_different() -> None:
    facts = told()
    assert len(facts) >= 80
    assert len({fact.tell for fact in facts}) == len({fact.ask for fact in facts}) == len(facts)
    assert all(isinstance(part, str) and part.strip() for fact in facts for part in fact)
    assert not any(fact.answer == fact.ask for fact in facts)


# The measures


CASES = [
    case("madial", "needed, scored", "a"),
    case("madial", "needed", "b"),
    case("madial-other", "scored", "a"),
    case("madial-other", "quiet", "b"),
    case("told", "needed, modelled", "c"),
    case("telling", "quiet", "c"),
    case("kdconv", "modelled", "d"),
]


async def test_rates_and_scores() -> None:
    scored = says(lambda text: "scored" in text)
    triggers = {"score": scored, "both": scored, "model": says(lambda text: "modelled" in text)}
    report = await evaluate(CASES, triggers, ["score", "both"])
    values = {name: {kind: figure.value for kind, figure in rates.items()} for name, rates in report.rates.items()}
    assert values["score"] == {"madial": 0.5, "told": 0, "madial-other": 0.5, "telling": 0, "kdconv": 0}
    assert values["both"] == {"madial": 0.5, "told": 1, "madial-other": 0.5, "telling": 0, "kdconv": 1}
    both = {group: [figure.value for figure in names.values()] for group, names in report.scores["both"].items()}
    assert both["madial"] == [0.5, 0.5, 0.5]
    assert both["told"] == [1, 1, 1]
    assert both["all"] == pytest.approx([2 / 4, 2 / 3, 4 / 7])
    assert report.wrong["both"] == {"madial": ["needed"], "madial-other": ["scored"], "kdconv": ["modelled"]}


async def test_a_trigger_that_never_asks_has_no_precision() -> None:
    report = await evaluate(CASES, {"model": says(lambda _: False)}, ["model"])
    answer = report.as_json()["triggers"]["model"]["scores"]["all"]
    assert (answer["precision"], answer["recall"][0], answer["F1"][0]) == (None, 0, 0)
    json.dumps(report.as_json(), allow_nan=False)
    assert "nan" not in report.as_text()


async def test_a_few_cases_are_asked_at_once() -> None:
    inside, most = 0, 0

    async def trigger(_: Case) -> bool:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        return True

    await evaluate(CASES, {"model": trigger}, ["model"])
    assert most == 4


# The triggers


async def test_the_score_is_of_the_memories_one_may_see() -> None:
    memory = NewMemory("message", "user:1", "我家的乌龟叫闪电", datetime.now(UTC), "1", "1", "小林")
    async with Score.open([memory], None) as score:
        assert await score(case("told", "[图片]乌龟叫什么"))
        assert not await score(case("told", "乌龟叫什么", scope="user:2"))
        assert not await score(case("told", "今天天气怎么样"))
        asked = case("told", "几岁了")
        assert not await score(asked)
        assert await score(replace(asked, before=(Turn("user", "猜猜看"), Turn("assistant", "说到乌龟了"))))
        assert not await score(replace(asked, before=(Turn("user", "说到乌龟了"),))), "only what the bot has said"


async def test_beside_the_model_a_memory_opens_a_talk_only_if_it_fits_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = NewMemory("message", "user:1", "我家的乌龟叫闪电", datetime.now(UTC), "1", "1", "小林")
    asked = case("told", "乌龟叫什么")
    within = replace(asked, before=(Turn("user", "你好"), Turn("assistant", "你好呀")))
    async with Score.open([memory], None, beside_model=True) as beside, Score.open([memory], None) as alone:
        assert [await beside(asked), await beside(within), await alone(asked)] == [True] * 3
        monkeypatch.setattr("qqmem.evals.trigger.CLEAR", 100.0)
        assert [await beside(asked), await beside(within), await alone(asked)] == [False, True, True]


@pytest.mark.parametrize(
    ("script", "asks", "thinks"),
    [
        ("<recall>闪电。" + LONG, True, False),
        ("<think>乌龟？<recall>闪电。</think>好" + LONG, True, False),
        ("<think>乌龟？</think>好" + LONG, False, False),
        ("好" + LONG, False, False),
        ("", False, False),
        ("乌龟？<recall>" + LONG, True, True),
        ("乌龟？</think>好" + LONG, False, True),
    ],
)
async def test_the_model_asks_before_it_replies_or_not(script: str, asks: bool, thinks: bool, prompts: Prompts) -> None:
    models: list[Unfinished] = []

    def load() -> Unfinished:
        models.append(Unfinished(script=lambda _: script, tokenizer=CharTokenizer(thinks=thinks)))
        return models[0]

    async with Model.open(load, prompts, Settings(), seed=0) as model:
        assert await model(case("told", "乌龟叫什么")) is asks
    assert not script or models[0].left, "what is behind the answer is not waited for"
    (prompt,) = models[0].prompts
    assert "小忆" in prompt
    assert "(QQ:10001)：乌龟叫什么⟨/⟩⟨assistant⟩" in prompt


async def test_the_model_is_shown_the_dialogue_so_far(prompts: Prompts) -> None:
    models: list[Unfinished] = []

    def load() -> Unfinished:
        models.append(Unfinished(script=lambda _: "好" + LONG, tokenizer=CharTokenizer()))
        return models[0]

    before = (Turn("user", "看过吗"), Turn("assistant", "看过"))
    async with Model.open(load, prompts, Settings(), seed=0) as model:
        await model(replace(case("kdconv", "哪年的"), before=before))
    (prompt,) = models[0].prompts
    assert 0 < prompt.index("：看过吗⟨/⟩") < prompt.index("⟨assistant⟩看过⟨/⟩") < prompt.index("：哪年的⟨/⟩⟨assistant⟩")


# The command


def test_the_command_tells_all_in_text_and_json(data: Path) -> None:
    (data / "kdconv").rename(data / "else")
    arguments = ["trigger", "--data", str(data), "--encoder", "none", "--limit", "3"]
    text = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "telling" in text
    assert "kdconv is left out" in text
    answer = json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert answer["kinds"]["told"] == {"messages": 3, "needs_memory": True}
    assert answer["missing"] == ["kdconv"]
    assert list(answer["triggers"]) == ["score"]


def test_an_unknown_trigger_is_refused(data: Path) -> None:
    found = CliRunner().invoke(app, ["trigger", "--data", str(data), "--triggers", "score,luck"])
    assert isinstance(found.exception, InvalidRequest)
    assert "luck" in str(found.exception)


def test_a_model_that_is_not_there_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QQMEM_MODELS", str(data))
    found = CliRunner().invoke(app, ["trigger", "--data", str(data), "--triggers", "model"])
    assert "qqmem model pull" in str(found.exception)
