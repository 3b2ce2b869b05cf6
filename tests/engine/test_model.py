"""Greedy tokens are those of transformers' `generate`, whatever else runs, joins, leaves or is reused."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from qqmem.engine.attention import Segment, flat_attention
from qqmem.engine.cache import KV
from qqmem.engine.model import Feed, Held, LanguageModel
from qqmem.engine.quant import Int8Linear, crossover, quantise
from qqmem.engine.types import Request, Row, Vector
from qqmem.errors import ModelError
from tests.tiny import flat, greedy, tiny_qwen2, tiny_qwen3vl

MAKERS: dict[str, Callable[..., PreTrainedModel]] = {"qwen2": tiny_qwen2, "qwen3-vl": tiny_qwen3vl}
NEW = 12

prompts = st.lists(st.integers(0, 255), min_size=1, max_size=60)


@lru_cache
def expected(name: str, prompt: tuple[int, ...]) -> list[int]:
    return greedy(reference(name), list(prompt), NEW)


@lru_cache
def reference(name: str) -> PreTrainedModel:
    return MAKERS[name]()


@lru_cache
def ours(name: str) -> LanguageModel:
    return flat(MAKERS[name]())


class Writer:
    """One sequence driven by hand."""

    def __init__(self, model: LanguageModel, prompt: list[int], conversation: str | None = None) -> None:
        self.model, self.prompt, self.conversation = model, tuple(prompt), conversation
        self.held = model.start(Request(tuple(prompt), NEW, conversation=conversation))
        self.pending = prompt[self.held.length :]
        self.written: list[int] = []

    def row(self, chunk: int) -> Row:
        tokens = self.pending[:chunk]
        return Row(self.held, tokens, "token" if len(tokens) == len(self.pending) else "nothing")

    def take(self, row: Row, token: int | Vector | None) -> None:
        del self.pending[: len(row.tokens)]
        if isinstance(token, int):
            self.written.append(token)
            self.pending.append(token)

    def leave(self) -> None:
        self.model.release(self.held, self.conversation)


def step(model: LanguageModel, writers: list[Writer], chunks: list[int]) -> None:
    rows = [writer.row(chunk) for writer, chunk in zip(writers, chunks, strict=True)]
    for writer, row, token in zip(writers, rows, model.step(rows), strict=True):
        writer.take(row, token)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_schedule_writes_what_generate_writes(name: str, data: st.DataObject) -> None:
    """Sequences join and leave at random, prompts are read in random chunks, some end early, KV is reused."""
    model = ours(name)
    model.cache.clear()  # an example may not depend on the one before it
    system = data.draw(prompts, "system")
    jobs = [system + data.draw(prompts, "prompt") for _ in range(data.draw(st.integers(1, 5), "jobs"))]
    waiting, running = list(enumerate(jobs)), list[Writer]()
    while waiting or running:
        if waiting and (not running or data.draw(st.booleans(), "join")):
            number, prompt = waiting.pop(0)
            running.append(Writer(model, prompt, conversation=f"c{number % 3}"))
        step(model, running, [data.draw(st.integers(1, 32), "chunk") for _ in running])
        for writer in list(running):
            cancelled = data.draw(st.integers(0, 19), "cancel") == 0
            if cancelled or len(writer.written) == NEW:
                assert writer.written == expected(name, writer.prompt)[: len(writer.written)]
                writer.leave()
                running.remove(writer)


@pytest.mark.parametrize("name", MAKERS)
def test_four_prompts_of_different_lengths_in_one_batch(name: str) -> None:
    model = flat(MAKERS[name]())
    jobs = [[7], list(range(40)), list(range(200, 217)), [3] * 300]
    writers = [Writer(model, list(job)) for job in jobs]
    for _ in range(60):
        unfinished = [w for w in writers if len(w.written) < NEW]
        if unfinished:
            step(model, unfinished, [16] * len(unfinished))
    assert [w.written for w in writers] == [expected(name, tuple(job)) for job in jobs]


def test_the_next_turn_reads_only_what_is_new() -> None:
    model = flat(tiny_qwen2())
    first = list(range(100))
    writer = Writer(model, first, "a")
    for _ in range(NEW):
        step(model, [writer], [1000])
    writer.leave()
    again = Writer(model, [*first, 5, 6, 7], "a")
    assert again.held.length == 100
    other = Writer(model, [*first[:50], 250, 251], "b")
    assert other.held.length == 0, "the KV of a is in use"
    again.leave()
    assert Writer(model, [*first[:50], 250, 251], "b").held.length == 50, "a prefix of another conversation is copied"
    assert Writer(model, first[:50], "a").held.length == 49, "one token must be read to write the next"


def test_a_failed_step_leaves_every_row_as_it_was() -> None:
    model = flat(tiny_qwen2())
    good, bad = Writer(model, [1, 2, 3]), Writer(model, [4, 5])
    with pytest.raises(IndexError):
        model.step([good.row(9), Row(bad.held, [10**6])])
    assert good.held.length == bad.held.length == 0
    step(model, [good], [9])
    assert good.written == expected("qwen2", (1, 2, 3))[:1]


def test_attention_is_that_of_the_textbook_however_the_row_is_cut() -> None:
    """Two sequences in one row; the second comes in pieces of 1, 3 and 1 tokens."""

    class Layer(nn.Module):
        layer_idx = 0

    torch.manual_seed(0)
    query, key, value = torch.randn(1, 8, 12, 16), torch.randn(1, 2, 12, 16), torch.randn(1, 2, 12, 16)
    kvs, got = (KV(), KV()), torch.zeros(12, 8, 16)
    for rows in ([[0, 1], [7]], [[2], [8, 9, 10]], [[3, 4, 5, 6], [11]]):
        row = rows[0] + rows[1]
        segments = [Segment.of(kv, len(part), query.device) for kv, part in zip(kvs, rows, strict=True)]
        out, _ = flat_attention(Layer(), query[:, :, row], key[:, :, row], value[:, :, row], None, segments=segments)
        got[row] = out[0]
        for kv, part in zip(kvs, rows, strict=True):
            kv.commit(part)
    for whole in (slice(0, 7), slice(7, 12)):
        k, v = key[0, :, whole].repeat_interleave(4, 0), value[0, :, whole].repeat_interleave(4, 0)
        scores = query[0, :, whole] @ k.transpose(1, 2) / 4
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        torch.testing.assert_close(got[whole], (torch.softmax(scores, -1) @ v).transpose(0, 1))


@pytest.mark.parametrize("name", MAKERS)
def test_bfloat16_logits_are_near_those_of_float32(name: str) -> None:
    """Bound: cosine 0.995 at every position of a text; docs/benchmarks.md has the embedded model's."""
    exact, rounded = flat(MAKERS[name]()), flat(MAKERS[name](torch.bfloat16))
    assert _worst_cosine(exact, rounded) > 0.995


@pytest.mark.parametrize("name", MAKERS)
def test_int8_logits_are_near_those_of_bfloat16(name: str) -> None:
    """Bound: cosine 0.99 at every position; int8 rounds each weight by at most 1/254 of its row's largest."""
    rounded, packed = flat(MAKERS[name](torch.bfloat16)), flat(MAKERS[name](torch.bfloat16))
    packed.use_int8(max_rows=16)
    assert _worst_cosine(rounded, packed) > 0.99


def _worst_cosine(a: LanguageModel, b: LanguageModel) -> float:
    kvs, worst = (KV(), KV()), 1.0
    for token in range(0, 250, 5):
        with torch.inference_mode():
            left, right = (
                m.logits(m.forward([Feed(kv, [token])]))[0].float() for m, kv in zip((a, b), kvs, strict=True)
            )
        for kv in kvs:
            kv.commit([token])
        worst = min(worst, float(nn.functional.cosine_similarity(left, right, dim=0)))
    return worst


def test_int8_weights_round_to_the_nearest_step() -> None:
    weight = torch.randn(32, 64)
    ints, scales = quantise(weight)
    assert float((ints * scales[:, None] - weight).abs().div(scales[:, None]).max()) <= 0.5 + 1e-4
    assert not quantise(torch.zeros(4, 8))[0].any()


def test_int8_layers_fall_back_to_the_weight_above_their_rows() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32, dtype=torch.bfloat16)
    layer = Int8Linear(linear, 4)
    x = torch.randn(1, 5, 64, dtype=torch.bfloat16)
    assert torch.equal(layer(x), linear(x))
    assert not torch.equal(layer(x[:, :4]), linear(x[:, :4]))
    torch.testing.assert_close(layer(x[:, :4]), linear(x[:, :4]), atol=0.05, rtol=0.05)


def test_the_crossover_is_one_of_the_measured_rows() -> None:
    assert crossover(flat(tiny_qwen2(torch.bfloat16)).decoder) in (0, 1, 2, 4, 8, 16)
    assert crossover(nn.LayerNorm(4)) == 0, "nothing to quantise"


def test_an_architecture_that_would_write_nonsense_is_refused() -> None:
    """A model that does more to its logits than apply its head."""

    class Scaled(GPT2LMHeadModel):
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = -output.logits
            return output

    model = Scaled(GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4))
    with pytest.raises(ModelError, match="Scaled does not run right"):
        flat(model)


def test_held_knows_its_length() -> None:
    model = flat(tiny_qwen2())
    writer = Writer(model, [1, 2, 3])
    step(model, [writer], [2])
    assert isinstance(writer.held, Held)
    assert writer.held.length == 2
