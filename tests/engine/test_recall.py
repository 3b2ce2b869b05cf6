"""The state machine of a recall: what the model reads is the stored text, whatever it writes by itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from qqmem.engine.recall import Feed, Recall
from qqmem.engine.types import Ask, Found, Recalling, RecallTokens
from tests.fakes_engine import END, OPEN, PAD, SHUT, CharTokenizer, text_of

TOKENS = RecallTokens(OPEN, SHUT, PAD)
VALUE = np.array([0.6, 0.8], np.float32)
NOTHING = "(没有)"
encode = CharTokenizer().encode

texts = st.text(alphabet="猫狗ab", max_size=8)


async def never(ask: Ask) -> Found | None:
    raise AssertionError("the state machine itself looks for nothing")


def machine(*, opened: bool = False, limit: int = 3, sampled: bool = True, after: str = "", late: str = "") -> Recall:
    recalling = Recalling(never, NOTHING, limit, sampled, after, after_nothing=late)
    return Recall(TOKENS, recalling, encode, opened=opened)


def waiting(recall: Recall) -> Recall:
    """Up to where it waits for its memory."""
    if recall.phase == "writing":
        assert recall.opens(OPEN)
    recall.ask(VALUE, "")
    return recall


def read(recall: Recall, found: Found | None, by_heart: Iterable[int] = ()) -> list[int]:
    """All that a model reads from the answer to the end of the recall. by_heart: what it writes by itself."""
    own = iter(by_heart)
    feed = recall.answer(found)
    tokens = list(feed.tokens)
    while recall.phase == "checking":
        feed = recall.check(next(own))
        assert feed.value is None, "the vector comes once"
        tokens += feed.tokens
    assert recall.phase == "writing"
    return tokens


def test_a_turn_that_asks_for_nothing_only_writes() -> None:
    recall = machine()
    assert (recall.phase, recall.want) == ("writing", "token")
    assert not any(recall.opens(token) for token in [ord("a"), END, SHUT, PAD])
    assert (recall.phase, recall.want) == ("writing", "token")


@pytest.mark.parametrize(
    ("written", "found", "forced"),
    [
        ("<think>猫？", None, "迟"),
        ("<think>猫？</think>好", None, ""),
        ("好", None, ""),
        ("<think>猫？", Found("猫", None), ""),
    ],
)
def test_a_thought_of_its_own_is_led_out_where_nothing_is_found(written: str, found: Found | None, forced: str) -> None:
    recall = machine(after="早", late="迟")
    assert recall.opens(OPEN)
    recall.ask(VALUE, written)
    said = found.text if found else NOTHING
    assert recall.answer(found) == Feed([*encode(said), SHUT, *encode(forced)], None, forced)


def test_the_state_of_recall_is_the_query_and_then_nothing_is_wanted() -> None:
    recall = machine()
    assert recall.opens(OPEN)
    assert (recall.phase, recall.want) == ("asking", "query")
    ask = recall.ask(VALUE, "我想")
    assert ask.query is VALUE
    assert ask.written == "我想"
    assert (recall.phase, recall.want) == ("waiting", "nothing")


def test_nothing_found_reads_a_fixed_span_without_a_vector() -> None:
    recall = waiting(machine())
    assert recall.answer(None) == Feed([*encode(NOTHING), SHUT])
    assert (recall.phase, recall.want, recall.mode, recall.text) == ("writing", "token", "none", "")


def test_a_splice_is_the_pad_with_the_vector_the_stored_text_and_the_end() -> None:
    recall = waiting(machine())
    feed = recall.answer(Found("爱吃鱼", VALUE))
    assert feed.tokens == [PAD, *encode("爱吃鱼"), SHUT]
    assert feed.value is VALUE
    assert (recall.phase, recall.want, recall.mode, recall.text) == ("writing", "token", "spliced", "爱吃鱼")


@pytest.mark.parametrize("decodable", [False, True])
def test_a_memory_without_a_vector_is_its_text_alone(decodable: bool) -> None:
    recall = waiting(machine())
    assert recall.answer(Found("爱吃鱼", None, decodable)) == Feed([*encode("爱吃鱼"), SHUT])
    assert (recall.phase, recall.mode) == ("writing", "spliced")


def test_a_decodable_memory_is_written_by_the_model_token_by_token() -> None:
    recall = waiting(machine())
    feed = recall.answer(Found("鱼干", VALUE, decodable=True))
    assert feed.tokens == [PAD]
    assert feed.value is VALUE
    for char in "鱼干":
        assert (recall.phase, recall.want) == ("checking", "likeliest")
        assert recall.check(ord(char)) == Feed([ord(char)])
    assert recall.phase == "checking", "it must also know where the memory ends"
    assert recall.check(SHUT) == Feed([SHUT])
    assert (recall.phase, recall.mode, recall.text) == ("writing", "decoded", "鱼干")


@given(
    stored=texts,
    num_right=st.integers(0, 9),
    wrong=st.lists(st.sampled_from([*encode("猫狗ab"), SHUT, END]), min_size=10, max_size=10),
)
@example(stored="猫狗", num_right=1, wrong=[SHUT] * 10)  # ends too early
@example(stored="猫狗", num_right=2, wrong=encode("a") * 10)  # does not end
@example(stored="猫狗", num_right=0, wrong=[END] * 10)  # ends its turn
@example(stored="", num_right=0, wrong=encode("a") * 10)
def test_what_is_read_is_the_stored_text_wherever_the_model_departs(
    stored: str, num_right: int, wrong: list[int]
) -> None:
    recall, right = waiting(machine()), [*encode(stored), SHUT]
    by_heart = [*right[:num_right], *wrong]
    assert read(recall, Found(stored, VALUE, decodable=True), by_heart) == [PAD, *right]
    assert recall.mode == ("decoded" if by_heart[: len(right)] == right else "spliced")
    assert recall.text == stored


founds = st.one_of(st.none(), st.builds(Found, texts, st.sampled_from([None, VALUE]), st.booleans()))


@given(st.lists(st.tuples(founds, st.lists(st.sampled_from([*encode("猫狗ab"), SHUT]), min_size=9, max_size=9))))
def test_any_number_of_recalls_follow_each_other_as_if_each_were_the_first(
    recalls: list[tuple[Found | None, list[int]]],
) -> None:
    recall = machine(limit=len(recalls))
    for found, by_heart in recalls:
        tokens = read(waiting(recall), found, by_heart)
        if found is None:
            assert tokens == [*encode(NOTHING), SHUT]
            assert (recall.mode, recall.text) == ("none", "")
        else:
            assert tokens == [*([] if found.value is None else [PAD]), *encode(found.text), SHUT]
            assert recall.mode in ("spliced", "decoded")
            assert recall.text == found.text
    assert OPEN in recall.banned(may_ask=True), "that was the last"


def test_outside_a_place_for_recalls_all_three_tokens_are_banned() -> None:
    assert set(machine().banned(may_ask=False)) == set(TOKENS)
    assert set(machine().banned(may_ask=True)) == {SHUT, PAD}


@pytest.mark.parametrize(("limit", "sampled"), [(0, True), (3, False)])
def test_a_model_that_may_not_ask_by_itself_cannot(limit: int, sampled: bool) -> None:
    assert OPEN in machine(limit=limit, sampled=sampled).banned(may_ask=True)


def test_while_a_memory_is_checked_it_may_end_but_no_other_may_begin() -> None:
    recall = waiting(machine())
    recall.answer(Found("鱼", VALUE, decodable=True))
    assert set(recall.banned(may_ask=True)) == {OPEN, PAD}


@given(founds, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2))
def test_the_pad_is_never_written_and_the_end_only_by_who_is_checked(
    found: Found | None, opened: bool, sampled: bool, may_ask: bool, limit: int
) -> None:
    recall = machine(opened=opened, sampled=sampled, limit=limit)

    def is_safe() -> bool:
        banned = recall.banned(may_ask=may_ask)
        return PAD in banned and (SHUT in banned) == (recall.phase != "checking")

    assert is_safe()
    waiting(recall)
    assert is_safe()
    recall.answer(found)
    assert is_safe()


def test_a_prompt_that_ends_in_recall_begins_by_asking() -> None:
    recall = machine(opened=True, limit=1)
    assert (recall.phase, recall.want) == ("asking", "query")
    assert read(waiting(recall), None) == [*encode(NOTHING), SHUT]
    assert OPEN in recall.banned(may_ask=True), "it counts"


@pytest.mark.parametrize(
    ("found", "by_heart", "after"),
    [
        (None, [], "没有。"),
        (Found("鱼", VALUE), [], "所以"),
        (Found("鱼", None), [], "所以"),
        (Found("鱼", VALUE, decodable=True), [ord("鱼"), SHUT], "所以"),
        (Found("鱼", VALUE, decodable=True), [ord("鸟")], "所以"),
        (Found("鱼", VALUE, decodable=True), [SHUT], "所以"),
    ],
)
def test_text_is_forced_behind_the_recall_that_opens_a_turn_and_behind_no_other(
    found: Found | None, by_heart: list[int], after: str
) -> None:
    recall = waiting(machine(opened=True, after="所以", late="没有。"))
    feed = recall.answer(found)
    for token in by_heart:
        feed = recall.check(token)
    assert feed.text == after
    assert feed.tokens[-len(after) - 1 :] == [SHUT, *encode(after)]
    tokens = read(waiting(recall), found, by_heart)
    assert tokens[-1] == SHUT, "the second recall is the model's own"


def test_a_model_that_writes_recall_for_ever_ends() -> None:
    """It takes `<recall>` whenever it may."""
    recall, tokens = machine(limit=3), list[int]()
    for _ in range(10):
        token = ord("x") if OPEN in recall.banned(may_ask=True) else OPEN
        tokens.append(token)
        if recall.opens(token):
            recall.ask(VALUE, "")
            tokens += recall.answer(None).tokens
    assert text_of(tokens) == f"<recall>{NOTHING}</recall>" * 3 + "x" * 7
