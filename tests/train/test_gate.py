"""The gate measures what serves: on a tiny model that has learned two memories by heart, and on one that has not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qqmem.engine.model import load_model
from qqmem.engine.types import Request, Row, Vector
from qqmem.train import gate, stage2
from qqmem.train.common import writer_of
from qqmem.train.records import read_run
from tests.train.runs import MEMORIES, SETTINGS, make_run, save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

SHORT = [memory | {"text": text} for memory, text in zip(MEMORIES, ("猫", "tea", "山"), strict=True)]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few of each kind, on one thread: the models are tiny."""
    monkeypatch.setattr(gate, "_QUIET", 8)
    monkeypatch.setattr(gate, "_CHATS", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measured(folder: Path) -> Any:
    assert gate.main(folder) == 0
    return json.loads((folder / "gate.json").read_text("utf-8"))


def test_a_model_that_has_learned_nothing_decodes_nothing(tmp_path: Path) -> None:
    settings = SETTINGS | {"stage2": {"epochs": 1, "batch": 4, "lr": 1e-9}}
    folder = make_run(tmp_path / "run", save_model(tmp_path / "model"), memories=SHORT, settings=settings)
    assert stage2.main(folder) == 0
    result = measured(folder)
    assert result["decodable"] == []
    before, after = result["before"], result["after"]
    assert after["exact"] == 0
    assert after["perplexity"] == pytest.approx(before["perplexity"], rel=0.05)
    assert after["perplexity_beside"] is not None
    assert 0 <= after["trigger_false"] <= 1
    assert 0 <= after["recall_at_1"] <= after["recall_at_5"] == 1, "there are three memories"


def test_what_it_calls_decodable_the_engine_decodes(tmp_path: Path) -> None:
    settings = SETTINGS | {"stage2": {"epochs": 40, "batch": 4, "lr": 2e-2, "rank": 16}, "save_steps": 10_000}
    folder = make_run(tmp_path / "run", save_model(tmp_path / "model"), memories=SHORT, settings=settings)
    assert stage2.main(folder) == 0
    result = measured(folder)
    assert result["decodable"], "forty epochs over three short memories"
    assert result["after"]["exact"] == len(result["decodable"]) / 3
    run = read_run(folder)
    model = load_model(run.model)
    write = writer_of(run, model.tokenizer, 512)
    model.use_release(folder / "stage2")
    for row in range(3):
        held = model.start(Request(write.asking(row, random.Random(run.seed)), 1))
        model.step([Row(held, write.asking(row, random.Random(run.seed)), "nothing")])
        written, feed = list[int](), [write.tokens.pad]
        value: Vector | None = run.values[row]
        while len(written) < 9 and write.tokens.close not in written:
            (token,) = model.step([Row(held, feed, "likeliest", value=value)])
            assert isinstance(token, int)
            written.append(token)
            feed, value = [token], None
        right = written == [*write.tokenizer.encode(run.memories[row].text), write.tokens.close]
        assert right == (row in result["decodable"])
