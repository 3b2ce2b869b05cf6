"""The gate measures what serves: on a tiny model that has learned two memories by heart, and on one that has not."""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from qqmem.engine.cache import KV
from qqmem.engine.model import Feed, LanguageModel, load_model
from qqmem.engine.types import Ask, Found, Opening, Piece, Recalled, Recalling, RecallTokens, Request, Row, Vector
from qqmem.engine.worker import Engine
from qqmem.train import gate, stage2
from qqmem.train.common import writer_of
from qqmem.train.records import read_run
from tests.train.runs import MEMORIES, SETTINGS, make_run, save_model

# Two of them learn by heart: half a minute each, more where others keep the cores busy.
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),
]

SHORT = [memory | {"text": text} for memory, text in zip(MEMORIES, ("猫", "tea", "山"), strict=True)]

LEARNED = {"epochs": 30, "batch": 4, "lr": 2e-2, "reading_lr": 2e-2, "reading_rank": 16, "readings": 3, "quiet": 1.0}


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


def test_a_second_run_keeps_what_the_first_has_learned(learned: Path, tmp_path: Path) -> None:
    """It begins from the untrained model, and learns the older memories anew, since they are still in the store."""
    first = measured(learned)["decodable"]
    assert first
    more = [MEMORIES[0] | {"id": 4, "text": "鱼", "subject_id": "10004"}]
    settings = SETTINGS | {"stage2": LEARNED, "save_steps": 10_000}
    second = make_run(tmp_path / "run", read_run(learned).model, memories=[*SHORT, *more], settings=settings)
    assert stage2.main(second) == 0
    assert set(first) <= set(measured(second)["decodable"])


def test_what_was_before_is_what_the_starter_does(learned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(learned, folder)
    run = json.loads((folder / "run.json").read_text("utf-8"))
    (folder / "run.json").write_text(json.dumps(run | {"starter": str(learned / "stage2")}), "utf-8")
    result = measured(folder)
    assert result["before"] == result["after"]
    assert result["base"]["perplexity"] != result["before"]["perplexity"]


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


@dataclass
class Cue:
    ids: list[int]
    positives: list[int]
    length: int = 0


class Reading:
    """A model whose query is known of each token."""

    def start(self, request: Request) -> Cue:
        return Cue(list(request.prompt), [])

    def step(self, rows: list[Row]) -> list[Vector]:
        along = np.array([8, 6, 0], np.float32), np.array([0, 0, 1], np.float32)
        return [along[row.tokens[0]] for row in rows]

    def release(self, held: Cue, name: str) -> None:
        assert held.ids


@dataclass
class Telling:
    cues: list[Cue]
    values: Vector = field(default_factory=lambda: np.eye(3, dtype=np.float32))
    centre: Vector = field(default_factory=lambda: np.array([0.6, 0, 0], np.float32))

    def held_out(self) -> list[Cue]:
        return self.cues


def test_a_rank_is_of_the_best_that_fits_seen_from_the_centre() -> None:
    told = Telling([Cue([0], [0]), Cue([0], [1, 2]), Cue([1], [2]), Cue([0], [2]), Cue([1], [0, 1])])
    found = gate.retrieval(Reading(), told, told)  # type: ignore[arg-type]
    assert found == {"recall_at_1": 0.4, "recall_at_5": 1.0, "ranks": [2, 1, 1, 3, 2]}


CLOSE = 9


class Reciting(Reading):
    """Writes a text of its own for each prompt of one token."""

    def __init__(self, *texts: list[int]) -> None:
        self._texts = [list(text) for text in texts]

    def step(self, rows: list[Row]) -> list[Any]:
        return [None if row.want == "nothing" else self._texts[cast(Cue, row.running).ids[0]].pop(0) for row in rows]


class Asking:
    tokens = RecallTokens(open=7, close=CLOSE, pad=8)

    @property
    def tokenizer(self) -> Asking:
        return self

    def encode(self, text: str) -> list[int]:
        return [int(letter) for letter in text]

    def asking(self, row: int, draw: random.Random) -> list[int]:
        return [row]


@dataclass
class Remembered:
    text: str


@dataclass
class Known:
    memories: list[Remembered]
    seed: int = 1
    values: Vector = field(default_factory=lambda: np.eye(5, dtype=np.float32))


def test_what_goes_on_behind_its_text_or_leaves_it_is_not_exact() -> None:
    run = Known([Remembered("12")] * 4 + [Remembered("3")])
    model = Reciting([1, 2, CLOSE], [1, 2, 2], [1, CLOSE], [2, 2, CLOSE], [3, CLOSE])
    assert gate.exact(model, run, Asking()) == [0, 4]  # type: ignore[arg-type]


class Counting:
    """A model that is sure of one thing: behind a number comes the next."""

    def states(self, feed: list[Feed]) -> torch.Tensor:
        (one,) = feed
        return torch.tensor(one.tokens)

    forward = states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return 100 * torch.nn.functional.one_hot(states + 1, 16).float()


@pytest.mark.parametrize("value", [None, np.ones(3, np.float32)])
def test_a_reply_is_judged_by_what_stands_before_each_token(value: Vector | None) -> None:
    def loss(*ids: int) -> float:
        return gate._loss(Counting(), KV(), ids, 3, value)  # type: ignore[arg-type]

    assert loss(9, 9, 9, 4, 5, 6, 7) == pytest.approx(0, abs=1e-6)
    assert loss(9, 9, 9, 4, 5, 6, 8) == pytest.approx(100)
    assert loss(9, 9, 9, 3, 5, 6, 7) == pytest.approx(100), "the first of them is judged, too"


def test_what_texts_begin_with_is_read_once_and_changes_nothing(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(learned)
    model = load_model(run.model, dtype="float32")
    write = writer_of(run, model.tokenizer, 512)
    model.use_release(learned / "stage2")
    found = gate.perplexity(model, run, write)

    def read_anew(model: LanguageModel, kv: KV, ids: list[int]) -> None:
        kv.cut(0)
        with torch.inference_mode():
            model.forward([Feed(kv, ids)])
        kv.commit(ids)

    monkeypatch.setattr(gate, "_read_up_to", read_anew)
    again = gate.perplexity(model, run, write)
    assert found == {name: pytest.approx(value, rel=1e-3) for name, value in again.items()}
    assert found["perplexity"] != pytest.approx(found["perplexity_beside"], rel=1e-3)


@dataclass
class Chatted:
    """Conversations, and an example that is too short to be measured by."""

    sft: list[str]
    held_out_sft: list[str]
    seed: int = 1
    ids: tuple[int, ...] = (1,)
    parts: tuple[bool, ...] = (False,)
    drawn: list[list[str]] = field(default_factory=list)

    def chat(self, draw: random.Random, most: int, kept: list[str]) -> Chatted:
        self.drawn.append(kept)
        return self


@pytest.mark.parametrize(("shown", "kept", "drawn"), [(["a"], ["b"], ["b"]), (["a"], [], ["a"]), ([], [], None)])
def test_ordinary_turns_are_of_what_was_not_shown_if_there_is_any(
    shown: list[str], kept: list[str], drawn: list[str] | None
) -> None:
    told = Chatted(shown, kept)
    found = gate.perplexity(Counting(), told, told)  # type: ignore[arg-type]
    assert found == {"perplexity": None, "perplexity_beside": None}
    assert told.drawn == ([] if drawn is None else [drawn] * gate._CHATS)


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
