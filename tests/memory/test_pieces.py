from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from qqmem.memory.pieces import LONGEST_PIECE, pieces, says_something, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[CQ:at,qq=10001] 你好[CQ:face,id=14]", "你好"),
        ("看[图片]这个[表情:doge]", "看 这个"),
        ("[动画表情]", ""),
        ("[重要] 明天交作业", "[重要] 明天交作业"),
        ("第一行\n第二行", "第一行\n第二行"),
        ("a\0b\ud800c\x07", "abc"),
        ("[IMAGE] look", "look"),
        ("[文件 报告.pdf] 看下", "看下"),
        ("[戳一戳]", ""),
        ("[表情回应 赞]", ""),
        ("前 [转发的聊天记录]\n> 小明：我住上海\n[转发结束] 后", "前 后"),
        ("[转发的聊天记录] 看看", "看看"),
        ("  ", ""),
    ],
)
def test_codes_and_what_cannot_be_stored_are_left_out(text: str, words: str) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("好", True), ("ok", True), ("ありがとう", True), ("。。。", False), ("😀👍", False), ("666", False), ("", False)],
)
def test_only_letters_say_something(text: str, wanted: bool) -> None:
    assert says_something(text) is wanted


def test_a_short_message_is_one_piece() -> None:
    assert pieces("我养了一只猫。它叫年糕！") == ["我养了一只猫。它叫年糕！"]


def test_a_long_message_is_cut_at_sentence_ends() -> None:
    first, second = "今天天气很好" * 10 + "。", "明天去爬山" * 10 + "！"
    assert pieces(first + second) == [first, second]


def test_a_long_sentence_is_cut_at_a_comma() -> None:
    first, second = "今天天气很好" * 10 + "，", "明天去爬山" * 10
    assert pieces(first + second) == [first, second]


def test_english_is_cut_behind_a_full_stop_not_within_a_number() -> None:
    text = "The price is 3.14 dollars today. " * 6
    assert all(piece.endswith("today.") for piece in pieces(text))


@given(
    st.text(alphabet=st.sampled_from("我a,，。！?\n \t…”9") | st.characters(exclude_categories=["Cs"]), max_size=400)
)
def test_all_text_is_kept_and_no_piece_is_too_long(text: str) -> None:
    cut = pieces(text)
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert all(0 < len(piece) <= LONGEST_PIECE for piece in cut)
