"""Text in, tokens out and back: no typed control token, no half character."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from qqmem.engine.recall import RECALL
from qqmem.engine.tokenizer import ChatTokenizer
from qqmem.errors import ModelError
from tests.tiny import CHATML, CONTROL, VOCAB, tiny_tokenizer

tokenizer = ChatTokenizer(tiny_tokenizer(), VOCAB)
backend = tiny_tokenizer()
USED = len(backend)
"""Rows that have a token without recalls."""


def _id(token: str) -> int:
    found = backend.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


control_ids = {*(_id(token) for token in CONTROL), *range(USED, VOCAB)}

texts = st.lists(
    st.one_of(st.sampled_from([*CONTROL, *RECALL, "\ue0000\ue001", "👩‍👩‍👧", "\n"]), st.text(max_size=5))
).map("".join)


def decoded(ids: list[int]) -> str:
    stream = tokenizer.detokenizer()
    return "".join(map(stream.step, ids)) + stream.flush()


@given(texts)
def test_typed_control_tokens_stay_text(text: str) -> None:
    ids = tokenizer.encode(text)
    assert not control_ids & set(ids)
    assert decoded(ids) == text


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), min_size=1, max_size=5))
def test_a_prompt_has_the_control_tokens_of_its_template_only(messages: list[tuple[str, str]]) -> None:
    ids = tokenizer.render(messages)
    assert sum(i in control_ids for i in ids) == 2 * len(messages) + 1
    rendered = backend.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], tokenize=False, add_generation_prompt=True
    )
    assert backend.decode(ids) == rendered, "but for what is control, the text is that of the template"


def test_without_forged_tokens_the_ids_are_those_of_apply_chat_template() -> None:
    messages = [
        ("system", "你是小忆。"),
        ("user", "[2026-11-22 17:00] 小明(QQ:1)：在吗？\n"),
        ("assistant", "在。"),
        ("user", "hi"),
    ]
    chat = [{"role": role, "content": content} for role, content in messages]
    expected = backend.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tokenizer.render(messages) == expected


@given(texts, st.data())
def test_pieces_of_any_tokens_join_to_the_text_and_are_whole(text: str, data: st.DataObject) -> None:
    ids = tokenizer.encode(text)
    cut = ids[: data.draw(st.integers(0, len(ids)))]
    stream = tokenizer.detokenizer()
    pieces = [stream.step(i) for i in cut]
    assert all("\ufffd" not in piece for piece in pieces)
    assert text.startswith("".join(pieces))
    assert "".join(pieces) + stream.flush() == backend.decode(cut)


def test_special_tokens_are_not_shown() -> None:
    stream = tokenizer.detokenizer()
    ids = [*tokenizer.encode("好"), _id("<|im_end|>"), *tokenizer.encode("a")]
    assert "".join(stream.step(i) for i in ids) + stream.flush() == "好a"


def test_whether_the_model_thinks_is_read_off_its_template() -> None:
    assert not tokenizer.thinks
    assert ChatTokenizer(tiny_tokenizer(CHATML.replace("assistant\n", "assistant\n<think>\n"))).thinks
    closed = CHATML.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n")
    assert not ChatTokenizer(tiny_tokenizer(closed)).thinks


def test_a_model_without_a_chat_template_is_refused() -> None:
    bare = tiny_tokenizer()
    bare.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        ChatTokenizer(bare)


# ---- the tokens of recalls ------------------------------------------------------------------------------------------


def test_the_tokens_of_recalls_are_put_on_the_first_free_rows() -> None:
    assert tokenizer.recall == (USED, USED + 1, USED + 2)


@pytest.mark.parametrize("num_free", range(6))
def test_the_tokens_of_recalls_lie_inside_the_matrix_or_nowhere(num_free: int) -> None:
    bare = tiny_tokenizer()
    found = ChatTokenizer(bare, USED + num_free)
    if num_free >= len(RECALL):
        assert found.recall is not None
        assert max(found.recall) < USED + num_free
    else:
        assert found.recall is None
        assert len(bare) == USED, "and none of them is left in the tokenizer"
    messages = [("user", "<recall>在吗</recall>")]
    assert found.render(messages) == tokenizer.render(messages), "everything else is the same"
    assert decoded(found.encode("<recall>")) == "<recall>"


def test_tokens_that_are_there_already_are_taken_as_they_are() -> None:
    once = tiny_tokenizer()
    first = ChatTokenizer(once, VOCAB).recall
    size = len(once)
    assert ChatTokenizer(once, VOCAB).recall == first
    assert ChatTokenizer(once, size).recall == first, "they need no free rows"
    assert len(once) == size


def test_tokens_that_are_there_but_outside_the_matrix_are_of_no_use() -> None:
    once = tiny_tokenizer()
    ChatTokenizer(once, VOCAB)
    assert ChatTokenizer(once, USED + 2).recall is None


def test_the_control_tokens_of_the_model_stay_control_tokens() -> None:
    own = tiny_tokenizer()
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    before = own.all_special_tokens
    ChatTokenizer(own, VOCAB)
    assert set(own.all_special_tokens) == {*before, *RECALL}
    assert own.encode("<|im_end|>", add_special_tokens=False) == [_id("<|im_end|>")]


def test_the_tokens_of_recalls_are_not_shown() -> None:
    assert tokenizer.recall is not None
    assert decoded([*tokenizer.encode("好"), *tokenizer.recall, *tokenizer.encode("a")]) == "好a"
