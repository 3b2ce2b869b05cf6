"""Text in, tokens out and back: no typed control token, no half character."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from qqmem.engine.tokenizer import ChatTokenizer
from qqmem.errors import ModelError
from tests.tiny import CHATML, CONTROL, tiny_tokenizer

tokenizer = ChatTokenizer(tiny_tokenizer())
backend = tiny_tokenizer()


def _id(token: str) -> int:
    found = backend.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


control_ids = {_id(token) for token in CONTROL}

texts = st.lists(st.one_of(st.sampled_from([*CONTROL, "\ue0000\ue001", "👩‍👩‍👧", "\n"]), st.text(max_size=5))).map(
    "".join
)


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
