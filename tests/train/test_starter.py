from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from qqmem.errors import InvalidRequest
from qqmem.evals.cases import told
from qqmem.train import starter as starter_module
from qqmem.train.records import plain
from qqmem.train.starter import Record, Starter, generate, write_starter
from qqmem.train.starter_texts import SAME, SLOT, Kind, Words, texts

SEED, FACTS, HOLD_OUT = 7, 1200, 20
IMPORTANT = (
    "surname nick pal petname flower city country spot thing dish job company major school book film song hobby".split()
)
LEFT_OVER = re.compile(r"\$[a-z]|[<>{}|]|=>|None")
DOUBLED = re.compile(r"[，。、；：？！]{2}|[，、][。？！?]|[?]{2}|  |^[，。、？！]|(的的|了了|吗吗|是是|我我|呀呀)")


@pytest.fixture(scope="module")
def starter() -> Starter:
    return generate(seed=SEED, facts=FACTS, hold_out=HOLD_OUT)


def _cues(memory: Record, *kinds: str) -> list[Record]:
    return [cue for cue in (*memory["cues"], *memory["held_out"]) if not kinds or cue["kind"] in kinds]


def duplicates(told: Iterable[str]) -> float:
    """The share of texts that stand there before, but for marks at the end."""
    texts = [plain(text) for text in told]
    return 1 - len(set(texts)) / len(texts)


def _everything(starter: Starter) -> list[str]:
    """All text that anybody reads."""
    memories = [text for memory in starter.memories for text in (memory["text"], memory["speaker_name"])]
    cues = [text for memory in starter.memories for cue in _cues(memory) for text in (cue["text"], cue.get("reply"))]
    talk = [text for one in starter.negatives for text in (one["text"], one["reply"])]
    chats = [turn["content"] for one in starter.sft for turn in one["messages"]]
    return [text for text in (*memories, *cues, *talk, *chats) if text is not None]


def test_it_has_as_many_kinds_and_ways_of_saying_as_it_promises() -> None:
    source = texts()
    families = {kind.family for kind in source.kinds}
    assert len(families) >= 120
    assert len(source.talks) >= 60
    assert sum(kind.language == "en" for kind in source.kinds) >= 10
    for kind in source.kinds:
        ways = len(kind.ask) + len(source.frames[kind.language]) + len(kind.thought)
        assert ways >= 6
        assert len(kind.tell) >= 2
        assert len(kind.fact) >= 2
        assert len(kind.reply) >= 2
    for talk in source.talks:
        assert len(talk.say) >= 5
    assert len({kind.name for kind in source.kinds}) == len(source.kinds)


def test_lists_are_long_and_have_nothing_twice() -> None:
    lists = texts().lists
    assert {name: len(lists[name]) for name in IMPORTANT if len(lists[name]) < 60} == {}
    assert {name for name, entries in lists.items() if len(set(entries)) < len(entries)} == set()
    # Names of people and things are never reworded.
    assert [entry for entry in chain(*lists.values()) for word, _ in SAME if word in entry] == []


def test_every_slot_has_a_list_and_every_list_a_slot() -> None:
    source = texts()
    kinds = [text for kind in source.kinds for field in dataclasses.astuple(kind)[1:] for text in _flat(field)]
    talk = [text for one in source.talks for text in (*chain(*one.say), *one.reply)]
    chats = [line for lines in source.chats.values() for line in chain(*lines)]
    entries = list(chain(*source.lists.values()))
    written = "$enname $nicken $nick $man $woman $opening $bye"
    slots = {match[1] for text in (*kinds, *talk, *chats, *entries, written) for match in SLOT.finditer(text)}
    assert slots - {"who", "ta", "me", "you", "my", "your", "topic"} == set(source.lists)


def _flat(field: str | tuple[str, ...]) -> tuple[str, ...]:
    return (field,) if isinstance(field, str) else field


def test_hundreds_of_thousands_of_facts_can_be_told() -> None:
    source = texts()
    nums = []
    for kind in source.kinds:
        slots = {match[1] for match in SLOT.finditer(kind.fact[0])} - {"who", "ta"}
        nums.append(math.prod(len(source.lists[slot]) for slot in slots) * len(kind.fact))
    names = len(source.lists["surname"]) * len(source.lists["man"])
    assert sum(nums) * names > 500_000
    assert sum(nums) > 50_000


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_starter(tmp_path / name, seed=seed, facts=60, hold_out=4)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["evaluation.jsonl", "memories.jsonl", "negatives.jsonl", "sft.jsonl"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


def test_parts_of_a_seed_have_other_people_and_the_same_judge() -> None:
    first, second = (generate(seed=SEED, facts=100, hold_out=HOLD_OUT, part=part) for part in (1, 2))
    assert first.evaluation == second.evaluation
    asked, again = ({plain(cue["text"]) for one in part.memories for cue in _cues(one)} for part in (first, second))
    assert len(asked & again) < 0.25 * len(asked)
    assert not {one["subject_id"] for one in first.memories} & {one["subject_id"] for one in second.memories}


def test_the_files_are_what_a_run_directory_holds(tmp_path: Path) -> None:
    write_starter(tmp_path, seed=1, facts=50, hold_out=0)
    memories = _read(tmp_path / "memories.jsonl")
    assert [one["id"] for one in memories] == list(range(1, 51))
    keys = {"id", "text", "subject_id", "speaker_name", "kind", "scope", "cues", "held_out"}
    for memory in memories:
        assert keys <= set(memory)
        assert {cue["kind"] for cue in memory["cues"]} == {"source", "question", "thought"}
        assert memory["held_out"]
        assert all(one["text"].strip() for one in _cues(memory))
        assert memory["scope"].partition(":")[2].partition("@")[0] == memory["subject_id"]
        if memory["kind"] == "message":
            assert memory["text"].startswith(f"{memory['speaker_name']}：")
    negatives = _read(tmp_path / "negatives.jsonl")
    assert all(one["text"] and one["reply"] for one in negatives)
    later = [one["before"] for one in negatives if "before" in one]
    assert len(later) == 40
    for before in later:
        assert [turn["role"] for turn in before] == ["user", "assistant"] * (len(before) // 2)
        assert before
        assert all(turn["content"].strip() and "$" not in turn["content"] for turn in before)
    for chat in _read(tmp_path / "sft.jsonl"):
        roles = [turn["role"] for turn in chat["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(turn["content"].strip() for turn in chat["messages"])
    assert _read(tmp_path / "evaluation.jsonl") == []


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_fact_holds_the_answer_and_no_question_gives_it_away(starter: Starter) -> None:
    for memory in starter.memories:
        assert memory["answer"].casefold() in memory["text"].casefold()
        for cue in _cues(memory, "question"):
            assert memory["answer"].casefold() not in cue["text"].casefold()
        for cue in memory["held_out"]:
            assert plain(cue["text"]) not in {plain(one["text"]) for one in memory["cues"]}


def test_others_ask_by_name_and_people_ask_of_themselves(starter: Starter) -> None:
    questions = [(memory, cue) for memory in starter.memories for cue in _cues(memory, "question")]
    about = [(memory, cue) for memory, cue in questions if cue["speaker"] != memory["speaker_name"]]
    assert 0.08 < len(about) / len(questions) < 0.4
    for memory, cue in about:
        assert memory["speaker_name"].casefold() in cue["text"].casefold()
        assert "你" not in re.sub("《.*?》", "", cue["reply"])


def test_nobody_is_asked_for_two_kinds_in_the_same_words(starter: Starter) -> None:
    kinds = defaultdict(set)
    for memory in starter.memories:
        for cue in _cues(memory, "question"):
            kinds[plain(cue["text"])].add(memory["topic"].partition(".")[0])
    assert {text: names for text, names in kinds.items() if len(names) > 1} == {}


def test_no_question_is_also_a_message_that_needs_no_memory(starter: Starter) -> None:
    asked = {plain(cue["text"]) for memory in starter.memories for cue in _cues(memory, "question")}
    quiet = {plain(one["text"]) for one in starter.negatives}
    quiet |= {plain(one["messages"][0]["content"]) for one in starter.sft}
    assert asked & quiet == set()


def test_texts_are_short(starter: Starter) -> None:
    facts = [memory["text"] for memory in starter.memories if not memory["topic"].endswith(".en")]
    assert sum(len(text) <= 40 for text in facts) >= 0.98 * len(facts)
    assert max(map(len, _everything(starter))) <= 120


def test_nothing_is_left_unfilled_and_marks_are_not_doubled(starter: Starter) -> None:
    everything = _everything(starter)
    assert [text for text in everything if LEFT_OVER.search(text)] == []
    wrong = [text for text in everything if DOUBLED.search(text.replace("……", "").replace("。。。", ""))]
    assert wrong == []


def test_english_is_about_a_tenth(starter: Starter) -> None:
    english = sum(memory["topic"].endswith(".en") for memory in starter.memories)
    assert 0.03 < english / FACTS < 0.15


def test_it_is_varied(starter: Starter) -> None:
    assert duplicates(one["text"] for one in starter.memories) < 0.005
    assert duplicates(str(one.get("before", "")) + one["text"] for one in starter.negatives) == 0
    assert duplicates(cue["text"] for one in starter.memories for cue in _cues(one, "question")) < 0.3
    facts = Counter(one["topic"] for one in starter.memories)
    assert len(facts) > 110
    assert max(facts.values()) < FACTS / 25
    kinds = {one["topic"] for one in starter.negatives}
    assert sum(name.startswith("telling:") for name in kinds) > 110
    assert sum(not name.startswith("telling:") for name in kinds) > 55
    assert abs(len(starter.negatives) - 3.6 * FACTS) <= 10


def test_style_tells_nothing(starter: Starter) -> None:
    """Marks and openings are as frequent in questions that need a memory as in questions that do not."""
    asked = [cue["text"] for memory in starter.memories for cue in _cues(memory, "question")]
    quiet = [one["text"] for one in starter.negatives if re.search("吗|什么|怎么|多少", one["text"])]
    marked = [sum(text[-1] in "？?" for text in texts_) / len(texts_) for texts_ in (asked, quiet)]
    assert abs(marked[0] - marked[1]) < 0.2


def test_kinds_held_out_are_in_no_training_file(starter: Starter) -> None:
    held = {one["topic"].removeprefix("telling:").partition(".")[0] for one in starter.evaluation if "topic" in one}
    trained = [one["topic"] for one in (*starter.memories, *starter.negatives, *starter.sft)]
    shown = {topic.removeprefix("telling:").partition(".")[0] for topic in trained}
    talks = {talk.name.partition(".")[0] for talk in texts().talks}
    families = {kind.family for kind in texts().kinds}
    assert len(held & families) == HOLD_OUT
    assert held & families & shown == set()
    names = {one["topic"] for one in starter.evaluation} & {talk.name for talk in texts().talks}
    assert len(names) == HOLD_OUT // 2
    assert names & set(trained) == set()
    assert talks
    assert len({plain(one["text"]) for one in starter.evaluation}) == len(starter.evaluation)
    needs = sum(one["needs_memory"] for one in starter.evaluation)
    assert 0.4 < needs / len(starter.evaluation) < 0.8


@pytest.mark.parametrize(("facts", "hold_out"), [(0, 0), (-1, 0), (10, -1), (10, 1000)])
def test_impossible_wishes_are_refused(tmp_path: Path, facts: int, hold_out: int) -> None:
    with pytest.raises(InvalidRequest):
        write_starter(tmp_path / "run", seed=1, facts=facts, hold_out=hold_out)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", range(6))
def test_it_writes_as_few_facts_as_asked_for(seed: int) -> None:
    assert [len(generate(seed=seed, facts=num, hold_out=30).memories) for num in (1, 2, 23)] == [1, 2, 23]


def _kind(name: str, *asks: str) -> Kind:
    return Kind(
        name, ("我有一盆$flower",), ("$who有一盆$flower",), asks, ("想想",), ("$flower",), ("好",), name, "$flower"
    )


def test_bad_questions_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that hold the answer, and those of another kind; and 我 beside a name is somebody else."""
    asks = ("$flower在哪", "两类都这么问", "$me比我多吗", "是哪种", "哪一盆")
    source = dataclasses.replace(texts(), kinds=(_kind("一", *asks), _kind("二", "另一种问法", *asks[1:])))
    monkeypatch.setattr(starter_module, "texts", lambda: source)
    memories = generate(seed=1, facts=200, hold_out=0).memories
    questions = [(memory, cue) for memory in memories for cue in _cues(memory, "question")]
    assert all(memory["answer"] not in cue["text"] for memory, cue in questions)
    assert len({memory["topic"] for memory, cue in questions if "两类都这么问" in cue["text"]}) == 1
    compared = [(memory, cue) for memory, cue in questions if "比我多" in cue["text"]]
    assert compared
    assert all(cue["speaker"] != memory["speaker_name"] in cue["text"] for memory, cue in compared)


def test_words_of_one_entry_stay_together() -> None:
    words = Words({"pet": ("猫=只", "狗=条"), "n": ("1", "2")}, random.Random(1))
    for _ in range(20):
        assert words.fill("$pet_b$pet", {}) in ("只猫", "条狗")
        assert words.fill("$n$n2", {}) in ("12", "21")
        assert words.fill("<a|b|>$n", {"n": "7"}) in ("a7", "b7", "7")


def test_the_judge_is_another_hand() -> None:
    """The handwritten set, and that of the evaluations, say nothing that the generator says."""
    judge = yaml.safe_load((Path(__file__).parent / "handwritten.yaml").read_text("utf-8"))
    questions = [one["ask"] for one in judge["questions"]]
    assert len({plain(text) for text in questions}) == len(questions) >= 80
    assert len({plain(text) for text in judge["negatives"]}) == len(judge["negatives"]) >= 80
    assert all(one["tell"] for one in judge["questions"])
    starter = generate(seed=2, facts=1000, hold_out=0)
    made = {plain(text) for text in _everything(starter)}
    foreign = [*questions, *judge["negatives"], *(one["tell"] for one in judge["questions"])]
    foreign += [text for one in told() for text in (one.tell, one.ask)]
    assert {text for text in map(plain, foreign) if text in made and len(text) > 6} == set()
    runs = {run for text in made for run in _runs(text)}
    assert {text for text in map(plain, foreign) if not text.isascii() and runs & _runs(text)} == set()


def _runs(text: str) -> set[str]:
    """All that is nine characters long in it."""
    return {text[start : start + 9] for start in range(len(text) - 8)}
