"""The embedded model itself: the same greedy tokens as `generate`, and what bfloat16 and int8 cost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from qqmem.engine.cache import KV
from qqmem.engine.model import Feed, LanguageModel, load_model
from qqmem.engine.types import Request, Row
from tests.tiny import greedy

pytestmark = pytest.mark.e2e

NEW = 16
QUESTIONS = ("你好", "天空为什么是蓝色的？", "给我推荐一本书，并说说为什么。" * 8, "Write a haiku about rain.")
TEXT = "今天下午我和小明去了海边，他说起小时候在外婆家的事，我们一直聊到天黑才回家。路上下起了小雨，可是谁都不想打伞。"


@pytest.fixture(scope="module")
def exact(folder: Path) -> LanguageModel:
    return load_model(folder, dtype="float32")


def prompts(model: LanguageModel) -> list[list[int]]:
    return [model.tokenizer.render([("system", "你是小忆。"), ("user", question)]) for question in QUESTIONS]


@pytest.fixture(scope="module")
def expected(exact: LanguageModel, folder: Path) -> list[list[int]]:
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [greedy(reference, prompt, NEW) for prompt in prompts(exact)]


def write(
    model: LanguageModel, jobs: list[list[int]], chunk: int, names: list[str], cancel: int = -1
) -> list[list[int]]:
    """Write NEW tokens for each, all in one batch; the one with the index `cancel` leaves after three."""
    held = [model.start(Request(tuple(job), NEW, conversation=name)) for job, name in zip(jobs, names, strict=True)]
    pending = [job[h.length :] for job, h in zip(jobs, held, strict=True)]
    written: list[list[int]] = [[] for _ in jobs]
    while active := [i for i, w in enumerate(written) if len(w) < (3 if i == cancel else NEW)]:
        rows = [Row(held[i], pending[i][:chunk], "token" if len(pending[i]) <= chunk else "nothing") for i in active]
        for i, token in zip(active, model.step(rows), strict=True):
            del pending[i][:chunk]
            if isinstance(token, int):
                written[i].append(token)
                pending[i].append(token)
    for h, name in zip(held, names, strict=True):
        model.release(h, name)
    return [to_end(model, tokens) for tokens in written]


def to_end(model: LanguageModel, tokens: list[int]) -> list[int]:
    """Up to the end of the turn, with its token, as `generate` gives it."""
    return next((tokens[: i + 1] for i, token in enumerate(tokens) if token in model.end_tokens), tokens)


def test_greedy_tokens_are_those_of_generate(exact: LanguageModel, expected: list[list[int]]) -> None:
    """Alone; then a batch of four lengths in chunks, of which one is cancelled; then again over the kept prefixes."""
    jobs, names = prompts(exact), list("abcd")
    assert write(exact, jobs[:1], 1000, ["alone"]) == expected[:1]
    got = write(exact, jobs, 16, names, cancel=1)
    assert [got[i] for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]
    assert got[1] == expected[1][:3]
    reused = exact.start(Request(tuple(jobs[2]), NEW, conversation="c"))
    assert reused.length == len(jobs[2]) - 1
    exact.release(reused, "c")
    assert write(exact, jobs, 1000, names) == expected


def test_bfloat16_and_int8_stay_within_their_bounds(exact: LanguageModel, folder: Path) -> None:
    """Cosine of the logits at every position of a Chinese text: bfloat16 above .998 of float32, int8 above .995."""
    ids = exact.tokenizer.render([("user", TEXT)])
    reference = logits(exact, ids)
    rounded = load_model(folder, dtype="bfloat16", int8=False)
    assert worst(reference, logits(rounded, ids)) > 0.998
    rounded.use_int8(max_rows=4)
    assert worst(reference, logits(rounded, ids)) > 0.995


def logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """[tokens, vocab], one token a step, as in decoding."""
    kv, rows = KV(), []
    with torch.inference_mode():
        for token in ids:
            rows.append(model.logits(model.forward([Feed(kv, [token])]))[0].float())
            kv.commit([token])
    return torch.stack(rows)


def worst(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(a, b, dim=-1).min())
