"""The rows that recalls begin with, and the size of what is injected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from qqmem.engine.injection import Injection, begin_rows, vector
from qqmem.engine.recall import RECALL
from qqmem.engine.tokenizer import ChatTokenizer
from qqmem.engine.types import RecallTokens, Vector
from tests.tiny import VOCAB, tiny_qwen2, tiny_qwen3vl, tiny_tokenizer


def small(*, ties: bool = False) -> Qwen2ForCausalLM:
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB, num_attention_heads=4, tie_word_embeddings=ties, **sizes))


def tied(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model with one matrix for input and output."""
    model: PreTrainedModel = cast(Any, small(ties=True)).to(dtype)
    return model


MAKERS: dict[str, Callable[..., PreTrainedModel]] = {"qwen2": tiny_qwen2, "qwen3-vl": tiny_qwen3vl, "tied": tied}


def unit(size: int = 64) -> Vector:
    return np.full(size, size**-0.5, np.float32)


def rows(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Of input and output: [vocab, hidden] each, as copies."""
    head = cast(nn.Module, model.get_output_embeddings())
    into, out = model.get_input_embeddings().weight, head.weight
    return cast(Tensor, into).detach().clone(), cast(Tensor, out).detach().clone()


def with_rows(model: PreTrainedModel) -> tuple[RecallTokens, dict[int, list[int]]]:
    tokenizer = ChatTokenizer(tiny_tokenizer(), VOCAB)
    assert tokenizer.recall is not None
    described = {token: tokenizer.encode(text) for token, text in zip(tokenizer.recall, RECALL, strict=True)}
    begin_rows(model, tokenizer.recall, described)
    return tokenizer.recall, described


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_begins_as_the_mean_of_its_plain_text(name: str, dtype: torch.dtype) -> None:
    """In the matrix of the input and in that of the output; all other rows stay as they are."""
    model = MAKERS[name](dtype)
    before = rows(model)
    tokens, described = with_rows(model)
    others = [i for i in range(VOCAB) if i not in tokens]
    for old, new in zip(before, rows(model), strict=True):
        assert new.shape == old.shape
        assert torch.equal(new[others], old[others])
        for token in tokens:
            assert torch.equal(new[token], old[described[token]].float().mean(0).to(dtype))


def test_tied_rows_stay_tied_and_untied_ones_stay_apart() -> None:
    one, two = tied(), tiny_qwen2()
    with_rows(one)
    with_rows(two)
    assert torch.equal(*rows(one))
    assert not torch.equal(*rows(two))


@pytest.mark.parametrize("name", MAKERS)
def test_a_row_is_as_long_as_a_mean_of_rows_is(name: str) -> None:
    """Not zero, and no longer than a row of a common token: a model of random rows has the shortest means."""
    model = MAKERS[name]()
    tokens, _ = with_rows(model)
    for weight in rows(model):
        typical = float(weight.norm(dim=-1).median())
        for token in tokens:
            assert 0.1 * typical < float(weight[token].norm()) <= typical
        assert len({tuple(weight[token].tolist()) for token in tokens}) == 3, "each has a meaning of its own"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_unit_vector_becomes_as_long_as_the_embeddings_are(dtype: torch.dtype) -> None:
    embedding = nn.Embedding(1024, 64, dtype=dtype)
    injected = Injection(embedding).embedding(unit())
    assert injected.dtype == dtype
    assert injected.shape == (64,)
    mean = embedding.weight.detach().float().norm(dim=-1).mean()
    torch.testing.assert_close(injected.float().norm(), mean, rtol=0.05, atol=0)
    direction = injected.float() / injected.float().norm()
    torch.testing.assert_close(direction, torch.tensor(unit()), rtol=0.02, atol=0)


def test_the_gain_stretches_the_vector() -> None:
    embedding = nn.Embedding(64, 64)
    torch.testing.assert_close(
        Injection(embedding, gain=2.5).embedding(unit()), Injection(embedding).embedding(unit()) * 2.5
    )


def test_a_vector_that_was_read_from_a_file_may_be_injected() -> None:
    """Such an array cannot be written to, and torch warns of it."""
    stored = np.frombuffer(unit().tobytes(), np.float32)
    assert not stored.flags.writeable
    assert Injection(nn.Embedding(64, 64)).embedding(stored).shape == (64,)


def test_a_query_is_the_state_until_a_head_is_trained() -> None:
    state = torch.randn(64)
    assert torch.equal(torch.tensor(Injection(nn.Embedding(64, 64)).query(state)), state)
    head = torch.randn(64, 64)
    got = Injection(nn.Embedding(64, 64), head).query(state)
    torch.testing.assert_close(torch.tensor(got), head @ state)


def test_a_vector_outside_torch_is_float32_and_its_own() -> None:
    state = torch.randn(8, dtype=torch.bfloat16)
    got = vector(state)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, state.float().numpy())


def test_rows_of_a_model_whose_head_has_no_weight_are_those_of_its_input() -> None:
    """As when the head has been replaced by one of another kind."""
    model = small()
    model.lm_head = nn.Identity()
    tokens, described = with_rows(model)
    weight = cast(Tensor, model.get_input_embeddings().weight).detach()
    torch.testing.assert_close(weight[tokens.open], weight[described[tokens.open]].mean(0))
