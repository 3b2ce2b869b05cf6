"""Sampling against its definition, and against transformers' own processors where there are some."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from qqmem.engine.sampling import Sampler
from qqmem.engine.types import Sampling

CPU = torch.device("cpu")

logit_lists = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40, unique=True)


def left_by_transformers(logits: torch.Tensor, sampling: Sampling, prompt: list[int]) -> torch.Tensor:
    """Which tokens transformers' own processors leave to be drawn, [vocab] of bool."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    scores = processors(torch.LongTensor([prompt]), torch.FloatTensor(logits.tolist())[None])
    return torch.isfinite(scores[0])


@given(logit_lists, st.lists(st.integers(0, 1), max_size=3))
def test_greedy_takes_the_best(values: list[float], prompt: list[int]) -> None:
    logits = torch.tensor(values)
    assert Sampler(Sampling(), prompt, CPU).sample(logits) == int(logits.argmax())


@given(
    logit_lists,
    st.floats(0.1, 2),
    st.integers(0, 10),
    st.one_of(st.just(1.0), st.floats(0.05, 1)),
    st.one_of(st.just(0.0), st.floats(0, 0.9)),
    st.one_of(st.just(1.0), st.floats(0.5, 2)),
    st.integers(0, 2**31),
)
def test_what_may_be_drawn_is_what_transformers_leaves(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float, penalty: float, seed: int
) -> None:
    logits, prompt = torch.tensor(values), [0, 1, 1]
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty, 0.0, seed)
    # At a boundary the two may round a cumulated probability to different sides; allow both.
    wider = replace(sampling, top_p=min(1.0, top_p + 1e-4), min_p=max(0.0, min_p - 1e-4))
    allowed = left_by_transformers(logits, sampling, prompt) | left_by_transformers(logits, wider, prompt)
    sampler = [Sampler(replace(sampling, seed=seed + i), prompt, CPU) for i in range(5)]
    assert all(allowed[one.sample(logits)] for one in sampler)


def test_a_seed_repeats_and_seeds_differ() -> None:
    logits = torch.zeros(100)
    sampling = Sampling(temperature=1.0, seed=7)
    runs = [[sampler.sample(logits) for _ in range(20)] for sampler in (Sampler(sampling, [], CPU) for _ in range(2))]
    assert runs[0] == runs[1]
    other = Sampler(Sampling(temperature=1.0, seed=8), [], CPU)
    assert [other.sample(logits) for _ in range(20)] != runs[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_probabilities(temperature: float) -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    sampler = Sampler(Sampling(temperature=temperature, seed=0), [], CPU)
    counts = torch.bincount(torch.tensor([sampler.sample(logits) for _ in range(4000)]), minlength=3)
    assert float((counts / 4000 - torch.softmax(logits / temperature, -1)).abs().max()) < 0.03


def test_presence_penalty_counts_what_was_written_only() -> None:
    logits = torch.tensor([1.0, 0.9, 0.8])
    sampler = Sampler(Sampling(presence_penalty=0.5), [0, 1, 2], CPU)
    assert [sampler.sample(logits) for _ in range(4)] == [0, 1, 2, 0]


def test_repetition_penalty_counts_prompt_and_reply_and_handles_negative_logits() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0), [0], CPU)
    assert sampler.sample(torch.tensor([1.0, 0.6, -1.0])) == 1
    assert sampler.sample(torch.tensor([-1.0, -1.0, -1.5])) == 2
