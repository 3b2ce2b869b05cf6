"""The gate measures what serves: on a tiny model that has learned two memories by heart, and on one that has not."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from qqmem.engine.model import LanguageModel, load_model
from qqmem.engine.types import Ask, Found, Opening, Piece, Recalled, Recalling, RecallTokens, Request, Row, Vector
from qqmem.engine.worker import Engine
from qqmem.train import gate, stage2
from qqmem.train.common import writer_of
from qqmem.train.records import read_run
from tests.train.runs import MEMORIES, SETTINGS, make_run, save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

SHORT = [memory | {"text": text} for memory, text in zip(MEMORIES, ("猫", "tea", "山"), strict=True)]

LEARNED = {"epochs": 60, "batch": 4, "lr": 2e-2, "rank": 16}


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
    assert after["leads_needless"] == [-math.inf] * len(after["leads_needless"]), (
        "nothing follows upon a forced opening"
    )
    assert 0 <= after["recall_at_1"] <= after["recall_at_5"] == 1, "there are three memories"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned its memories by heart."""
    folder = tmp_path_factory.mktemp("learned")
    settings = SETTINGS | {"stage2": LEARNED, "save_steps": 10_000}
    run = make_run(folder / "run", save_model(folder / "model"), memories=SHORT, settings=settings)
    assert stage2.main(run) == 0
    return run


def test_what_it_calls_decodable_the_engine_decodes(learned: Path) -> None:
    result = measured(learned)
    assert result["decodable"], "forty epochs over three short memories"
    assert result["after"]["exact"] == len(result["decodable"]) / 3
    run = read_run(learned)
    model = load_model(run.model)
    write = writer_of(run, model.tokenizer, 512)
    model.use_release(learned / "stage2")
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


def test_a_lead_is_what_the_engine_decides_by(learned: Path) -> None:
    run = read_run(learned)
    model = load_model(run.model)
    model.use_release(learned / "stage2")
    prompts = [model.tokenizer.encode(text) for text in ("我家来了只小猫", "hi", "今天好累", "1+1=?", "see you")]

    def greedy(prompt: list[int], opening: Opening | None = None) -> int:
        held = model.start(Request(tuple(prompt), 9))
        (token,) = model.step([Row(held, prompt, "likeliest", opening=opening)])
        assert isinstance(token, int)
        return token

    first = greedy(prompts[0])
    follows = greedy([*prompts[0], first])

    @dataclass
    class Write:
        """Examples, as far as leads are measured: what comes second stands for the recall."""

        opening: tuple[int, ...]
        tokens: RecallTokens

    write = Write((first, follows), tokens_of(model)._replace(open=follows))
    leads = gate.leads(model, write, prompts)  # type: ignore[arg-type]
    assert leads[0] > 0, "it is the likeliest there"
    for prompt, lead in zip(prompts, leads, strict=True):
        if math.isfinite(lead):
            assert greedy(prompt, Opening(first, lead - 0.01)) == first
            assert greedy(prompt, Opening(first, lead + 0.01)) != first
        else:
            assert greedy([*prompt, first]) != follows


def tokens_of(model: LanguageModel) -> RecallTokens:
    assert model.tokenizer.recall is not None
    return model.tokenizer.recall


def test_what_was_learned_wrongly_never_reaches_a_reply(learned: Path) -> None:
    run = read_run(learned)
    model = load_model(run.model)
    model.use_release(learned / "stage2")
    row = measured(learned)["decodable"][0]
    prompt = writer_of(run, model.tokenizer, 512).asking(row, random.Random(run.seed))

    async def recalled(stored: str) -> tuple[str, list[str]]:
        """What is recalled of a memory that the store calls decodable, and how."""

        async def find(_: Ask) -> Found:
            return Found(stored, run.values[row], decodable=True)

        async with Engine(lambda: model) as engine:
            request = Request(prompt, 24, channel="think", recall=Recalling(find, "(no)", limit=1))
            items = [item async for item in engine.stream(request)]
        text = "".join(item.text for item in items if isinstance(item, Piece) and item.channel == "memory")
        return text, [item.mode for item in items if isinstance(item, Recalled)]

    learned_text = run.memories[row].text
    assert asyncio.run(recalled(learned_text)) == (learned_text, ["decoded"])
    other = next(one.text for one in run.memories if one.text != learned_text)
    assert asyncio.run(recalled(other)) == (other, ["spliced"])
