"""Examples: what is learned, what is cut, what an epoch holds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qqmem.engine.prompt import Prompts
from qqmem.engine.tokenizer import ChatTokenizer
from qqmem.errors import InvalidRequest
from qqmem.train.batches import Plan, share, split
from qqmem.train.data import Example, Examples
from qqmem.train.draft import Draft
from qqmem.train.records import Cue, Memory, Quiet, Run, read_run
from tests.tiny import CHATML, VOCAB, tiny_tokenizer
from tests.train.runs import HIDDEN, MEMORIES, THINKING, make_run

END = 258  # <|im_end|> of the tiny tokenizer
PLAIN = ChatTokenizer(tiny_tokenizer(), VOCAB)
THINKER = ChatTokenizer(tiny_tokenizer(THINKING), VOCAB)
PROMPTS = Prompts.load("zh", None, ["persona", "rules", "output", "actions", "context"])
CAT = Memory("阿木养猫", "10001", "阿木", cues=(Cue("question", "我养了什么？"),))


def a_run(*memories: Memory, **changes: object) -> Run:
    values = np.eye(len(memories), HIDDEN, dtype=np.float32)
    centre = np.zeros(HIDDEN, np.float32)
    run = Run(Path(), 1, Path(), PROMPTS, "小忆", memories, values, centre)
    return replace(run, **changes)  # type: ignore[arg-type]


def examples(run: Run, tokenizer: ChatTokenizer = PLAIN, most: int = 2048) -> Examples:
    close = tokenizer.encode("\n</think>\n")
    return Examples(run, tokenizer, close, END, most)


def learned(one: Example, *parts: str) -> str:
    return shown([token for token, of in zip(one.ids, one.parts, strict=True) if of in parts])


def shown(ids: list[int] | tuple[int, ...]) -> str:
    """Tokens as text, those of recalls in brackets."""
    assert PLAIN.recall is not None
    marks = {PLAIN.recall.open: "«", PLAIN.recall.close: "»", PLAIN.recall.pad: "#", END: "|"}
    alone = tiny_tokenizer()
    text, run = "", list[int]()
    for token in ids:
        if token in marks:
            text += str(alone.decode(run)) + marks[token]
            run = []
        else:
            run.append(token)
    return text + str(alone.decode(run))


# --- one example


def test_a_recall_learns_to_ask_to_read_and_to_go_on_but_neither_the_pad_nor_the_chat() -> None:
    one = examples(a_run(CAT)).recall(0, Random(0))
    assert learned(one, "ask", "open") == "<think>\n我先回想一下：«"
    assert learned(one, "text") == "阿木养猫»"
    assert learned(one, "reply") == "\n</think>\n我记得，阿木养猫|"
    assert learned(one, "chat") == ""
    before, _, turn = shown(one.ids).rpartition("(QQ:10001)：我养了什么？|\n<|im_start|>assistant\n")
    assert before
    assert turn == "<think>\n我先回想一下：«#阿木养猫»\n</think>\n我记得，阿木养猫|"
    assert one.parts[one.pad] == ""
    assert shown(one.ids[one.pad : one.pad + 1]) == "#"
    assert one.mix == ((0, 1.0),)
    assert one.query == one.pad - 1
    assert shown(one.ids[one.query : one.pad]) == "«"
    assert one.positives == (0,)


def test_a_model_that_thinks_by_itself_only_goes_on_from_its_template() -> None:
    one = examples(a_run(CAT), THINKER).recall(0, Random(0))
    assert learned(one, "ask", "open") == "我先回想一下：«"
    assert "assistant\n<think>\n我先回想一下：«#" in shown(one.ids)
    assert learned(one, "text") == "阿木养猫»"


def test_the_reply_of_a_cue_is_what_the_bot_says() -> None:
    cue = Cue("question", "我养了什么？", "一只猫呀")
    one = examples(a_run(replace(CAT, cues=(cue,)))).recall(0, Random(0))
    assert learned(one, "reply") == "\n</think>\n一只猫呀|"


def test_somebody_who_tells_a_fact_is_not_answered_by_a_recall() -> None:
    write = examples(a_run(replace(CAT, cues=(Cue("source", "我养猫了"),))))
    for one in (write.query(0, Cue("source", "我养猫了"), Random(0)), write.recall(0, Random(0))):
        assert learned(one, "ask", "open") == ""
        assert one.query > 0
    quiet = write.quiet(Random(0))
    assert "我养猫了" in shown(quiet.ids)
    assert quiet.keep == (len(quiet.ids) - 1,)
    assert set(quiet.parts) == {""}


def test_what_was_said_before_a_message_that_needs_no_memory_stands_before_it() -> None:
    quiet = Quiet("哪年的？", "九十年代", (("user", "看过那片子吗"), ("assistant", "看过")))
    write = examples(a_run(CAT, negatives=(quiet,)))
    said = shown(write.quiet(Random(0)).ids)
    assert [said.count(text) for text in ("看过那片子吗", "看过|", "哪年的？|", "九十年代|")] == [1, 1, 1, 1]
    assert said.index("看过那片子吗") < said.index("assistant\n看过|") < said.index("哪年的？|")
    # Other messages come after it now and then, as after talk of another matter, and after all of it.
    texts = [shown(write.query(0, CAT.cues[0], Random(seed)).ids) for seed in range(60)]
    after = [text for text in texts if "看过那片子吗" in text]
    assert 6 < len(after) < 36
    assert all(text.index("assistant\n九十年代|") < text.index("我养了什么？|") for text in after)


def test_a_thought_stands_in_the_thinking_and_only_its_recall_is_learned() -> None:
    memory = replace(CAT, cues=(Cue("question", "我养了什么？"), Cue("thought", "他养的是")))
    one = examples(a_run(memory)).query(0, memory.cues[1], Random(0))
    assert shown(one.ids).endswith("我养了什么？|\n<|im_start|>assistant\n<think>\n他养的是«")
    assert learned(one, "ask", "open") == "<think>\n«"


def test_an_unseen_memory_is_read_not_learned_and_what_follows_is() -> None:
    one = examples(a_run(CAT, CAT, CAT)).recall(0, Random(0), new=True)
    assert learned(one, "text") == "»"
    assert "#阿木养猫»" in shown(one.ids)
    assert learned(one, "reply").startswith("\n</think>\n")
    assert len(one.mix) == 3


def test_under_a_foreign_turn_the_memory_is_learned_but_not_to_ask_for_it() -> None:
    chat = (("user", "你好"), ("assistant", "你好呀"))
    one = examples(a_run(CAT, sft=(chat,))).foreign(0, Random(0))
    assert learned(one, "ask", "open") == ""
    assert learned(one, "text") == "阿木养猫»"
    assert learned(one, "reply").endswith("你好呀|")
    assert one.query == -1
    assert one.keep == ()  # the base would answer it otherwise


def test_an_ordinary_turn_is_learned_and_kept() -> None:
    chat = (("system", "S"), ("user", "你好"), ("assistant", "你好呀"))
    one = examples(a_run(CAT, sft=(chat,))).chat(Random(0), 256)
    assert shown(one.ids) == "<|im_start|>system\nS|\n<|im_start|>user\n你好|\n<|im_start|>assistant\n你好呀|"
    assert learned(one, "chat") == "你好呀|"
    assert one.keep == tuple(range(len(one.ids) - 1)), "what people write, too"


def test_the_thoughts_of_an_ordinary_turn_are_learned_where_the_template_opens_them() -> None:
    thought = (("user", "你好"), ("assistant", "<think>\n想\n</think>\n\n你好呀"))
    silent = (("user", "你好"), ("assistant", "你好呀"))
    bare = [replace(a_run(CAT), sft=((("system", "S"), *chat),)) for chat in (thought, silent)]  # type: ignore[arg-type]
    with_thought, without = (examples(run, THINKER).chat(Random(0), 256) for run in bare)
    assert learned(with_thought, "chat") == "想\n</think>\n你好呀|"
    assert learned(without, "chat") == "你好呀|"
    assert "<think>\n\n</think>\n你好呀" in shown(without.ids)


def test_in_a_group_the_bot_reads_what_it_reads_there() -> None:
    one = examples(a_run(replace(CAT, scope="member:10001@20002"))).recall(0, Random(0))
    assert "20002" in shown(one.ids)


def test_first_person_questions_come_from_whom_the_memory_is_about() -> None:
    write = examples(a_run(CAT, replace(CAT, name="Lily", subject="10002")))
    for seed in range(20):
        assert "阿木(QQ:10001)：我养了什么？" in shown(write.query(0, CAT.cues[0], Random(seed)).ids)


def test_what_several_memories_may_mean_is_right_for_all_of_them() -> None:
    twice = replace(CAT, text="阿木养狗")
    again = replace(CAT, text="阿木 养猫。", subject="10009", cues=())
    other = replace(CAT, subject="10002", name="Lily", text="Lily养鱼")
    write = examples(a_run(CAT, twice, again, other))
    assert write.query(0, CAT.cues[0], Random(0)).positives == (0, 1, 2)
    assert write.query(3, CAT.cues[0], Random(0)).positives == (3,)


# --- cutting


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_cutting_takes_the_far_end_first_and_never_the_memory(data: st.DataObject) -> None:
    sizes = data.draw(st.tuples(*[st.integers(0, 20)] * 4))
    most = data.draw(st.integers(1, 70))
    head, context, vital, rest = (list(range(1000 * n, 1000 * n + size)) for n, size in enumerate(sizes))
    draft = Draft(list(head), list(context), [], [])
    draft.add(vital, "text", vital=True)
    draft.add(rest, "reply")
    before = draft.fit(most)
    whole = draft.head + draft.context + draft.tail
    assert len(whole) <= max(most, len(vital))
    assert before == len(draft.head) + len(draft.context)
    assert len(draft.parts) == len(draft.tail)
    assert draft.tail[: len(vital)] == vital
    assert context[len(context) - len(draft.context) :] == draft.context
    if draft.context or len(whole) < most:
        assert draft.tail == vital + rest or not draft.context
    if draft.head != head:
        assert not draft.context
        assert draft.tail == vital
    if len(head) + len(context) + len(vital) + len(rest) <= most:
        assert whole == head + context + vital + rest


@pytest.mark.parametrize("most", [1, 8, 40, 64, 100, 200])
def test_however_short_the_memory_stays_whole(most: int) -> None:
    write = examples(a_run(CAT, sft=((("user", "长" * 300), ("assistant", "好" * 300)),)), most=most)
    for one in (write.recall(0, Random(1)), write.foreign(0, Random(1))):
        assert learned(one, "text") == "阿木养猫»"
        assert one.ids[one.pad] == write.tokens.pad
        assert (
            len(one.ids)
            == len(one.parts)
            <= max(most, len(write.tokenizer.encode("<think>\n我先回想一下：阿木养猫")) + 3)
        )
        assert one.shared <= max(0, next(n for n, part in enumerate(one.parts) if part) - 1)


def test_the_question_is_what_stays_of_a_long_context() -> None:
    memory = replace(CAT, cues=(Cue("question", "长" * 100 + "我养了什么？"),))
    one = examples(a_run(memory), most=640).recall(0, Random(0))
    assert len(one.ids) == 640
    assert "我养了什么？|\n<|im_start|>assistant\n<think>\n" in shown(one.ids)


def test_some_messages_come_after_questions_about_other_memories_and_their_answers() -> None:
    hidden = replace(MANY[1], held_out=(Cue("question", "秘密"),))
    write = examples(a_run(MANY[0], hidden, *MANY[2:], negatives=(Quiet("累"),)))
    draw = Random(0)
    asked = [shown(write.recall(0, draw).ids[:-1]) for _ in range(200)]
    quiet = [shown(write.quiet(draw).ids) for _ in range(200)]
    for texts in (asked, quiet):
        after = [text for text in texts if "我记得，人" in text.partition("»")[0]]
        assert 25 <= len(after) <= 75
        assert {1, 2} <= {text.count("住哪？") for text in after} <= {1, 2, 3}
    assert not any("我记得，人0住在0号" in text.partition("«")[0] for text in asked), (
        "what is asked for is not to be read"
    )
    assert not any("秘密" in text for text in [*asked, *quiet])
    alone = examples(a_run(MANY[0]))
    assert not any("我记得" in shown(alone.query(0, MANY[0].cues[0], draw).ids) for _ in range(40))


def test_a_reply_that_is_cut_does_not_learn_to_stop_there() -> None:
    write = examples(a_run(CAT, sft=((("system", "S"), ("user", "hi"), ("assistant", "好" * 300)),)))
    assert not learned(write.chat(Random(0), 128), "chat").endswith("|")
    assert not learned(write.foreign(0, Random(0)), "chat").endswith("|")


# --- epochs

MANY = tuple(
    Memory(f"人{n}住在{n}号", str(n), f"人{n}", cues=(Cue("question", f"人{n}住哪？"), Cue("source", f"我住{n}号")))
    for n in range(24)
)
CHATS = tuple((("user", "问" * n), ("assistant", "答" * n)) for n in range(1, 30))


def test_an_epoch_of_stage_1_shows_some_cues_of_each_memory_and_nothing_that_is_held_out() -> None:
    memory = replace(CAT, held_out=(Cue("question", "秘密"),))
    write = examples(a_run(*MANY, memory, sft=CHATS))
    epoch = write.stage1(0, chat=4)
    assert Counter(one.kind for one in epoch) == {"query": 49, "chat": 7}
    assert all(set(one.parts) <= {"", "ask", "open", "chat"} for one in epoch)
    assert not any("秘密" in shown(one.ids) for one in [*epoch, *write.stage2(0, chat=0.3)])
    assert ["秘密" in shown(one.ids) for one in write.held_out()] == [True]


def test_an_epoch_of_stage_2_has_every_memory_and_the_kinds_in_equal_parts_by_tokens() -> None:
    epoch = examples(a_run(*MANY, sft=CHATS, negatives=(Quiet("累"),))).stage2(3, chat=1 / 3)
    labelled = [one for one in epoch if one.mix and one.mix[0][1] == 1.0]
    assert sorted(one.mix[0][0] for one in labelled) == list(range(24))
    num = Counter[str]()
    for one in epoch:
        num[one.kind] += len(one.ids)
    assert num["recall"] == pytest.approx(num["foreign"], rel=0.2)
    assert num["chat"] == pytest.approx(num.total() / 3, rel=0.1)
    unseen = sum(one.mix[0][1] != 1.0 for one in epoch if one.mix)
    assert 0.1 <= unseen / sum(bool(one.mix) for one in epoch) <= 0.3
    assert sum(one.kind == "quiet" for one in epoch) == sum(one.kind == "recall" for one in epoch)


def test_memories_are_read_by_themselves_as_often_as_is_asked_and_nearly_for_nothing() -> None:
    write = examples(a_run(*MANY, sft=CHATS))
    epoch = write.stage2(0, chat=0.2, readings=3)
    read = [one for one in epoch if one.kind == "read"]
    assert Counter(one.mix for one in read) == {((row, 1.0),): 3 for row in range(24)}
    assert {learned(one, "text") for one in read} == {f"{one.text}»" for one in MANY}
    assert all(set(one.parts) == {"", "text"} and not one.keep and one.query < 0 for one in read)
    assert len({one.ids[: one.shared] for one in read}) == 1
    assert all(one.shared == one.pad - 1 for one in read)
    assert not any(one.kind == "read" for one in write.stage2(0, chat=0.2))


def test_stage_1_takes_other_cues_of_a_memory_with_many_in_each_epoch() -> None:
    memory = replace(CAT, cues=tuple(Cue("question", f"第{n}问？") for n in range(9)))
    write = examples(a_run(memory))
    seen = [{text for one in write.stage1(epoch, chat=0) if (text := shown(one.ids))} for epoch in range(3)]
    asked = [{n for n in range(9) if any(f"第{n}问？" in text for text in texts)} for texts in seen]
    assert all(len(numbers) == 3 for numbers in asked)
    assert set.union(*asked) == set(range(9))


def test_epochs_differ_and_are_the_same_again() -> None:
    one, other = (examples(a_run(*MANY, sft=CHATS)) for _ in range(2))
    assert one.stage2(1, chat=0.3) == other.stage2(1, chat=0.3)
    assert one.stage2(1, chat=0.3) != other.stage2(2, chat=0.3)
    assert one.stage1(1, chat=4) == other.stage1(1, chat=4)
    assert one.stage1(1, chat=4) != other.stage1(0, chat=4)


@pytest.mark.parametrize("cues", [(), CAT.cues])
@pytest.mark.parametrize("sft", [(), CHATS])
def test_one_memory_and_no_file_beside_it_is_enough(cues: tuple[Cue, ...], sft: object) -> None:
    write = examples(a_run(replace(CAT, cues=cues), sft=sft))
    assert len([one for one in write.stage1(0, chat=4) if one.kind == "query"]) == len(cues)
    epoch = write.stage2(0, chat=1 / 3)
    assert any(learned(one, "text") == "阿木养猫»" for one in epoch)
    assert write.stage2(0, chat=0.0)


# --- batches


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.data())
@settings(max_examples=100, deadline=None)
def test_a_run_that_goes_on_anywhere_takes_the_same_steps(
    num: int, size: int, epochs: int, accumulation: int, of: int, data: st.DataObject
) -> None:
    def epoch(number: int) -> list[Example]:
        return [Example("chat", (number, n), ("", "")) for n in range(num + number % 2)]

    plan = Plan.of(epoch, size, epochs, accumulation)
    done = data.draw(st.integers(0, plan.steps))
    steps = [list(plan.run(0, index, of)) for index in range(of)]
    assert all(len(one) == plan.steps for one in steps)
    assert all(batch for one in steps for step in one for batch in step)
    assert [list(plan.run(done, index, of)) for index in range(of)] == [one[done:] for one in steps]
    seen = {one.ids for process in steps for step in process for batch in step for one in batch}
    assert seen == {one.ids for number in range(epochs) for one in epoch(number)}


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 5))
def test_batches_are_even_and_nobody_is_left_without(num: int, count: int, of: int) -> None:
    all_of = [Example("chat", (n,), ("",)) for n in range(num)]
    batches = split(all_of, count)
    assert len(batches) == count
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    if count <= num:
        assert [one for batch in batches for one in batch] == all_of
    shares = [share(batches[0], index, of) for index in range(of)]
    assert all(shares)
    assert {one.ids for part in shares for one in part} == {one.ids for one in batches[0]}


# --- records


def test_a_run_directory_is_read(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", tmp_path / "model"))
    assert [memory.text for memory in run.memories] == [memory["text"] for memory in MEMORIES]
    assert run.memories[1].cues[0].reply == "Tea, I think!"
    assert run.negatives == (Quiet("今天好累"), Quiet("1+1=?", "2"))
    assert len(run.sft) == 2
    assert run.centre[0] == np.float32(0.1)


def test_a_text_does_not_look_for_itself(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", tmp_path))
    assert run.memories[2].cues == ()


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tmp_path, negatives=[{"text": "a\u2028b"}])
    assert read_run(folder).negatives == (Quiet("a\u2028b"),)


def test_a_message_that_needs_no_memory_may_have_others_before_it(tmp_path: Path) -> None:
    before = [{"role": "user", "content": "看过吗"}, {"role": "assistant", "content": "看过"}]
    folder = make_run(tmp_path / "run", tmp_path, negatives=[{"text": "哪年的？", "before": before}])
    assert read_run(folder).negatives == (Quiet("哪年的？", "", (("user", "看过吗"), ("assistant", "看过"))),)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("run.json", "{", "run.json"),
        ("run.json", "{}", "run.json has no"),
        ("memories.jsonl", "", "nothing to train on"),
        ("memories.jsonl", '{"text": "a"}\n', "does not fit 1 memories"),
        ("sft.jsonl", '\n{"messages": 3}\n', "sft.jsonl, line 2"),
        ("negatives.jsonl", "[]\n", "negatives.jsonl, line 1"),
        ("negatives.jsonl", '{"text": "x", "before": [1]}\n', "negatives.jsonl, line 1"),
        ("values.npy", "x", "values.npy"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, text: str, said: str) -> None:
    folder = make_run(tmp_path / "run", tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        read_run(folder)


def test_a_missing_file_of_ordinary_turns_is_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", tmp_path)
    (folder / "sft.jsonl").unlink()
    (folder / "centre.npy").unlink()
    run = read_run(folder)
    assert run.sft == ()
    assert not run.centre.any()
    assert json.loads((folder / "run.json").read_text())["seed"] == run.seed


def test_the_templates_differ_as_they_should() -> None:
    assert PLAIN.thinks is False
    assert THINKER.thinks is True
    assert CHATML != THINKING
