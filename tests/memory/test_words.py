from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from qqmem.memory import words as words_module
from qqmem.memory.words import Segmenter


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我喜欢上海交通大学", ["喜欢", "上海", "交通", "大学", "上海交通大学"]),
        ("猫、狗和鸟。", ["猫", "狗", "鸟"]),
        ("GPT-4 写了Ｐｙｔｈｏｎ", ["gpt", "4", "写", "python"]),
        ("snake_case", ["snake", "case"]),
        ("我的是了吗", []),
        ("😀\0\ud800 ！？\n", []),
        ("", []),
    ],
)
def test_text_is_cut_into_words(segmenter: Segmenter, text: str, words: list[str]) -> None:
    assert segmenter.words(text) == words


@given(st.text())
@settings(deadline=None)
def test_words_are_letters_and_digits_that_are_cut_no_further(text: str) -> None:
    words = SEGMENTER.words(text)
    assert all(word and not set(word) & set(" _\"'*():^-+\0\n") for word in words)
    assert words == SEGMENTER.words(text.upper().lower() if text.isascii() else text)


def test_the_dictionary_is_loaded_once_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words_module._load.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert len({id(dictionary) for dictionary in pool.map(lambda _: words_module._dictionary(), range(8))}) == 1
    assert list(tmp_path.iterdir()) == []


SEGMENTER = Segmenter()
