"""The adapter that acts only where a memory is read: in training, and in the engine, which has to do the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from qqmem.engine.cache import KV
from qqmem.engine.model import Feed, LanguageModel
from qqmem.engine.types import Request, Row
from qqmem.errors import ModelError
from qqmem.train.packing import pack
from tests.tiny import VOCAB, flat, tiny_qwen2, tiny_qwen3vl
from tests.train.test_data import PLAIN
from tests.train.test_trainee import a_batch, a_trainee, stir, the_run

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

MAKERS = {"qwen2": tiny_qwen2, "qwen3vl": tiny_qwen3vl}
assert PLAIN.recall is not None
OPEN, CLOSE, PAD = PLAIN.recall
VALUE = np.eye(64, dtype=np.float32)[3]
BEFORE, MEMORY, BEHIND = [5, 17, 200, OPEN], [PAD, 33, 8, 90, 41], [CLOSE, 12, 7]


@pytest.fixture(scope="module", params=MAKERS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Any]:
    """The engine with a release, and how the trainee that has made it sees a sequence."""
    trainee = stir(a_trainee(MAKERS[request.param](), reading_rank=2)).eval()
    folder = tmp_path_factory.mktemp("release")
    trainee.save(folder)
    model = flat(MAKERS[request.param](), rows=VOCAB)
    model.use_release(folder)
    return model, trainee


def whole(model: LanguageModel) -> torch.Tensor:
    """The states of the sequence, read at once behind its beginning."""
    kv = KV()
    model.forward([Feed(kv, BEFORE)])
    kv.commit(BEFORE)
    return model.states([Feed(kv, [*MEMORY, *BEHIND], VALUE)])


def test_in_training_it_acts_from_a_pad_to_before_the_end_of_its_memory() -> None:
    row = pack(a_batch(the_run()))
    trainee = stir(a_trainee(reading_rank=2)).eval()
    with_it = trainee._states(row)
    with torch.no_grad():
        for name, weight in trainee.named_parameters():
            if "lora_B.reading" in name:
                weight.zero_()
    without = trainee._states(row)
    for n, one in enumerate(row.examples):
        is_same = [bool(torch.equal(with_it[row.at(n, at)], without[row.at(n, at)])) for at in range(len(one.ids))]
        first = one.pad if one.pad >= 0 else len(one.ids)
        assert all(is_same[:first])
        assert not any(is_same[first:]), "what comes behind sees what was read"


def test_turns_without_a_memory_teach_it_nothing() -> None:
    row = pack([one for one in a_batch(the_run()) if one.pad < 0])
    trainee = stir(a_trainee(reading_rank=2))
    trainee(row)[0].backward()
    grads = {name: one.grad for name, one in trainee.named_parameters() if "lora_B" in name}
    assert all(grad is None or not grad.any() for name, grad in grads.items() if "reading" in name)
    assert any(grad is not None and grad.any() for name, grad in grads.items() if "default" in name)


def test_the_engine_reads_as_it_was_trained(served: tuple[LanguageModel, Any]) -> None:
    model, trainee = served
    with torch.inference_mode():
        got = whole(model)
        ids = [*BEFORE, *MEMORY, *BEHIND]
        embedded = trainee.peft.get_base_model().get_input_embeddings()(torch.tensor(ids))
        for at, token in enumerate(ids):
            if token in (OPEN, CLOSE, PAD):
                embedded[at] = trainee.rows[[OPEN, CLOSE, PAD].index(token)]
        embedded[len(BEFORE)] = trainee._injection.embedding(VALUE)
        trainee._reading._places = torch.arange(len(BEFORE), len(BEFORE) + len(MEMORY))
        trainee._reading._tokens = len(ids)
        decoder = trainee.peft.get_base_model().get_decoder()
        decoder.set_attn_implementation("sdpa")
        want = decoder(inputs_embeds=embedded[None]).last_hidden_state[0]
    torch.testing.assert_close(got, want[len(BEFORE) :], atol=2e-4, rtol=1e-3)


@settings(deadline=None)
@given(cuts=st.sets(st.integers(1, len(MEMORY) + len(BEHIND) - 1)))
def test_in_pieces_beside_others_it_is_what_it_is_at_once(served: tuple[LanguageModel, Any], cuts: set[int]) -> None:
    model, _ = served
    with torch.inference_mode():
        want = model.injection.query(whole(model)[-1])
    held = model.start(Request(tuple(BEFORE), 1))
    other, others = model.start(Request((9, 3, 4), 1)), []
    model.step([Row(held, BEFORE, "nothing")])
    ids, got = [*MEMORY, *BEHIND], None
    ends = [*sorted(cuts), len(ids)]
    for start, end in zip([0, *ends], ends, strict=False):
        piece = Row(held, ids[start:end], "query", value=VALUE if start == 0 else None)
        beside, got = model.step([Row(other, [9 + start], "query"), piece])
        others.append(beside)
    np.testing.assert_allclose(np.asarray(got), want, atol=1e-4)
    alone = model.start(Request((9, 3, 4), 1))
    for start, seen in zip([0, *ends], others, strict=False):
        (state,) = model.step([Row(alone, [9 + start], "query")])
        np.testing.assert_allclose(np.asarray(seen), np.asarray(state), atol=1e-4)


def test_a_torn_one_changes_nothing(served: tuple[LanguageModel, Any], tmp_path: Path) -> None:
    model, trainee = served
    trainee.save(tmp_path / "torn")
    (tmp_path / "torn" / "adapter" / "reading" / "adapter_model.safetensors").write_bytes(b"{")
    with torch.inference_mode():
        before = whole(model)
        with pytest.raises(ModelError, match="torn is torn or no release"):
            model.use_release(tmp_path / "torn")
        assert torch.equal(whole(model), before)


def test_a_release_without_one_takes_it_off(tmp_path: Path) -> None:
    stir(a_trainee(reading_rank=2)).save(tmp_path / "with")
    stir(a_trainee()).save(tmp_path / "without")
    model, fresh = (flat(tiny_qwen3vl(), rows=VOCAB) for _ in range(2))
    fresh.use_release(tmp_path / "without")
    with torch.inference_mode():
        model.use_release(tmp_path / "with")
        assert not torch.allclose(whole(model), whole(fresh), atol=0.01)
        model.use_release(tmp_path / "without")
        assert torch.equal(whole(model), whole(fresh))
