from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qqmem.cli_eval import app
from qqmem.evals.data import Corpus, Question, Remembered
from qqmem.evals.figures import Draws
from qqmem.evals.retrieval import _measured, evaluate
from tests.memory.encoders import Letters

CORPUS = Corpus(
    [
        Remembered("a", "小明", "年糕是一只猫"),
        Remembered("b", "小明", "豆包是一只狗"),
        Remembered("c", "小明", "豆包是一只狗"),
        Remembered("a", "小红", "汤圆是一只鸟"),
    ],
    [
        Question("年糕是什么", "小明", frozenset({"a"}), "1"),
        Question("豆包是什么", "小明", frozenset({"b", "c"}), "2"),
        Question("汤圆是什么", "小红", frozenset({"a"}), "3"),
    ],
)


async def test_everybody_is_answered_from_their_own_memories_by_each_lane() -> None:
    report = await evaluate(CORPUS, Letters())
    assert list(report.lanes) == ["text", "lexical", "fused"]
    for figures in report.lanes.values():
        assert figures["hit@5"].value == figures["MRR"].value == 1
        assert figures["R@5"].value == 1
    assert (report.num_memories, report.num_questions, report.num_dialogues) == (4, 3, 3)
    assert "fused" in report.as_text()
    assert json.loads(json.dumps(report.as_json()))["lanes"]["fused"]["MRR"] == [1, 1, 1]


async def test_without_an_encoder_there_are_words() -> None:
    assert list((await evaluate(CORPUS, None)).lanes) == ["lexical", "fused"]


def test_measures() -> None:
    question = Question("q", "o", frozenset("abcd"), "1")
    found = [frozenset("x"), frozenset("a"), frozenset("bc"), *[frozenset("y")] * 3, frozenset("d")]
    assert _measured(found, question) == {
        "R@1": 0,
        "R@5": 0.75,
        "R@10": 1,
        "hit@5": 1,
        "hit@10": 1,
        "MRR": 0.5,
    }
    assert _measured([], question)["MRR"] == 0


def test_intervals_are_over_dialogues_and_hold_the_mean() -> None:
    # All questions of a dialogue have the same outcome: 100 independent ones, not 400.
    draws = Draws([str(n // 4) for n in range(400)])
    figure = draws.mean([n // 4 % 2 for n in range(400)])
    assert (draws.num, figure.value) == (100, 0.5)
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)
    assert np.isclose((figure.high + figure.low) / 2, 0.5, atol=0.02)


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(
        '{"memory": "m", "owner": "o", "text": "年糕是猫"}\n{"query": "年糕", "owner": "o", "gold": ["m"]}', "utf-8"
    )
    command = ["memory", "--data", str(file), "--encoder", "none"]
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0
    assert "1 questions in 1 dialogues" in table.stdout
    found = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(found.stdout)["lanes"]["fused"]["R@1"] == [1, 1, 1]
