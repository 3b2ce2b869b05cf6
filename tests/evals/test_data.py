from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qqmem.errors import InvalidRequest
from qqmem.evals.data import Question, Remembered, Turn, load

MEMORY = {"memory": "m1", "owner": "ming", "text": "年糕是猫"}
QUERY = {"query": "猫叫什么", "owner": "ming", "gold": ["m1"]}


def lines(path: Path, *values: Any) -> Path:
    text = "\n".join(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_one_s_own(tmp_path: Path) -> None:
    corpus = load(lines(tmp_path / "x.jsonl", {**QUERY, "dialogue": 7}, "", MEMORY, {**QUERY, "gold": ["m1", "m1"]}))
    assert corpus.memories == [Remembered("m1", "ming", "年糕是猫")]
    gold = frozenset({"m1"})
    assert corpus.questions == [
        Question("猫叫什么", "ming", gold, "7"),
        Question("猫叫什么", "ming", gold, "x.jsonl, line 4"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[1]",
        "null",
        {"owner": "ming"},
        {**MEMORY, "text": " "},
        {**MEMORY, "text": 3},
        {"memory": "m2", "owner": "ming"},
        {**QUERY, "gold": 3},
        {"query": "?", "owner": "ming"},
    ],
    ids=str,
)
def test_a_bad_line_is_named(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(InvalidRequest, match="line 3"):
        load(lines(tmp_path / "x.jsonl", MEMORY, QUERY, bad))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([MEMORY], "no questions"),
        ([MEMORY, {**QUERY, "gold": []}], "no gold"),
        ([MEMORY, {**QUERY, "gold": ["m9"]}], "no memory m9"),
        ([MEMORY, {**QUERY, "owner": "hong"}], "hong has no memory m1"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, content: list[Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        load(lines(tmp_path / "x.jsonl", *content))


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xff")
    for name in ("x", "y"):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            load(tmp_path / name)
    with pytest.raises(InvalidRequest, match="MADial"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("context", "query"), [(0, "我想吃蛋糕"), (1, "恭喜你！ 我想吃蛋糕"), (9, "我考完了 恭喜你！ 我想吃蛋糕")]
)
def test_a_folder_of_madial(tmp_path: Path, context: int, query: str) -> None:
    said = [
        "<BOD>\n",
        '<Lisa>:"我考完了"\n',
        '<Assistant>: "恭喜你！"\n',
        ' <Lisa>:"我想吃蛋糕"\n',
        '<Assistant>:"好"\n',
    ]
    lines(
        tmp_path / "x-dialogue.json", {"dialogue": said, "test-turn": [4], "relevant-id": [21], "user-id": 2, "id": 0}
    )
    lines(tmp_path / "x-memory.json", {"21": {"event": "Lisa爱吃蛋糕", "user-id": 2, "id": "21"}})
    corpus = load(tmp_path, context)
    assert corpus.memories == [Remembered("21", "2", "Lisa爱吃蛋糕")]
    before = (Turn("user", "我考完了"), Turn("assistant", "恭喜你！"))[: max(0, 2 - context)]
    assert corpus.questions == [Question(query, "2", frozenset({"21"}), "0", before)]
