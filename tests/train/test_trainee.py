"""What is trained: the packed forward is the model's own, the loss is what it says, and nothing else moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from qqmem.engine.injection import Injection
from qqmem.errors import InvalidRequest
from qqmem.train import judged
from qqmem.train.data import Example, Examples
from qqmem.train.judged import Aims, judge
from qqmem.train.packing import pack
from qqmem.train.records import Quiet, Run
from qqmem.train.trainee import Trainee, infonce
from tests.tiny import VOCAB, tiny_qwen2, tiny_qwen3vl
from tests.train.test_data import CAT, CHATS, END, PLAIN, a_run

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

ALL = {"query": 1.0, "ask": 1.0, "open": 1.0, "text": 1.0, "reply": 1.0, "chat": 1.0, "keep": 0.5, "quiet": 1.0}
QV = ["q_proj", "v_proj"]
LINEARS = [*QV, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_trainee(model: Any = None, run: Run | None = None, **changes: Any) -> Trainee:
    run = run or the_run()
    given: dict[str, Any] = {"rank": 2, "targets": LINEARS, "weights": ALL} | changes
    assert PLAIN.recall is not None
    torch.manual_seed(0)
    return Trainee(model or tiny_qwen3vl(), PLAIN.recall, run.values, run.centre, **given)


def the_run() -> Run:
    return a_run(CAT, CAT, CAT, sft=CHATS, negatives=(Quiet("累"),))


def a_batch(run: Run) -> list[Example]:
    write = Examples(run, PLAIN, PLAIN.encode("\n</think>\n"), END, 400)
    draw = Random(1)
    recalls = [write.recall(0, draw), write.recall(1, draw, new=True), write.foreign(2, draw)]
    return [*recalls, write.quiet(draw), write.chat(draw, 200), write.query(1, CAT.cues[0], draw)]


def stir(trainee: Trainee) -> Trainee:
    """Adapters begin at nothing: give them something to do."""
    with torch.no_grad():
        for name, weight in trainee.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
        trainee.rows.add_(torch.randn_like(trainee.rows) * 0.05)
    return trainee


# --- the packed forward


@pytest.mark.parametrize("model", [tiny_qwen2, tiny_qwen3vl])
def test_a_packed_row_is_what_the_model_makes_of_each_text_alone(model: Any) -> None:
    run = the_run()
    trainee = stir(a_trainee(model(), run))
    row = pack(a_batch(run))
    assert len(row.ids) < sum(len(one.ids) for one in row.examples)
    states = trainee._states(row)
    peft: Any = trainee.peft.get_base_model()
    peft.get_decoder().set_attn_implementation("sdpa")
    for n, one in enumerate(row.examples):
        embedded = peft.get_input_embeddings()(torch.tensor([one.ids])).clone()
        for place, token in enumerate(one.ids):
            if token in trainee.tokens.tolist():
                embedded[0, place] = trainee.rows[trainee.tokens.tolist().index(token)]
        if one.pad >= 0:
            value = sum(weight * run.values[at] for at, weight in one.mix)
            unit = (value / np.linalg.norm(value)).astype(np.float32)
            embedded[0, one.pad] = Injection(peft.get_input_embeddings()).embedding(unit)
        alone = peft.get_decoder()(inputs_embeds=embedded).last_hidden_state[0]
        packed = states[[row.at(n, place) for place in range(len(one.ids))]]
        torch.testing.assert_close(packed, alone, atol=2e-4, rtol=1e-3)


def test_the_base_is_as_without_anything_of_ours() -> None:
    row = pack([one for one in a_batch(the_run()) if one.kind == "chat"])
    before = a_trainee()._states(row)
    trainee = stir(a_trainee())
    assert not torch.equal(trainee._states(row), before)
    torch.testing.assert_close(trainee._states(row, base=True), before)


# --- the loss


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_judged_loss_and_its_gradient_are_those_of_the_whole_logits(n: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    matrix, tokens = torch.randn(17, 6), torch.tensor([3, 5, 11])
    states, rows, base = torch.randn(n, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True), torch.randn(n, 6)
    labels = torch.randint(-1, 17, (n,))
    kept = torch.where(torch.rand(n) < 0.5, torch.arange(n), -1)
    aims = Aims(labels, torch.rand(n) * (labels >= 0), kept, torch.rand(n) * (kept >= 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judged, "CHUNK", chunk)
        total, ce, kl = judge(states, rows, matrix, tokens, aims, base)
        got = torch.autograd.grad(3 * total, (states, rows))
    whole = matrix.index_copy(0, tokens, rows)
    log_p = (states @ whole.T).log_softmax(-1)
    log_q = (base @ matrix.T).log_softmax(-1)
    naive_ce = torch.where(labels >= 0, -log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0], 0)
    naive_kl = torch.where(kept >= 0, (log_q.exp() * (log_q - log_p)).sum(-1), 0)
    expected = (naive_ce * aims.weights + naive_kl * aims.keep).sum()
    torch.testing.assert_close((total, ce, kl), (expected, naive_ce, naive_kl), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got, torch.autograd.grad(3 * expected, (states, rows)), atol=1e-5, rtol=1e-4)


class Largest(TorchDispatchMode):
    """The most rows of anything as wide as the vocabulary that a forward or backward makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor) and one.ndim and one.shape[-1] == VOCAB:
                self.rows = max(self.rows, one.numel() // VOCAB)
        return made


def test_logits_are_made_only_where_something_is_learned_and_only_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = the_run()
    trainee, row = a_trainee(run=run), pack(a_batch(run))
    judged_at = [{n - 1 for n, part in enumerate(one.parts) if part} | set(one.keep) for one in row.examples]
    labelled = sum(map(len, judged_at))
    # The matrix itself is as wide when transposed.
    hidden = trainee.rows.shape[1]
    for chunk, most in ((10_000, labelled), (7, 7)):
        monkeypatch.setattr(judged, "CHUNK", chunk)
        with Largest() as largest:
            trainee(row)[0].backward()
        assert largest.rows <= max(most, hidden)
        assert largest.rows < len(row.ids)


def test_the_loss_has_the_parts_that_the_batch_has() -> None:
    trainee, batch = a_trainee(), a_batch(the_run())
    total, parts = trainee(pack(batch))
    assert set(parts) == set(ALL)
    assert total.item() == pytest.approx(sum(ALL[name] * float(loss) for name, loss in parts.items()), rel=1e-5)
    assert set(trainee(pack([one for one in batch if one.kind == "chat"]))[1]) == {"chat", "keep"}
    silent = a_trainee(weights={"query": 1.0})
    assert set(silent(pack(batch))[1]) == {"query"}


def test_only_the_rows_the_head_and_the_adapter_learn() -> None:
    trainee = stir(a_trainee())
    model: Any = trainee.peft.get_base_model()
    trainee(pack(a_batch(the_run())))[0].backward()
    moved = {name for name, weight in trainee.named_parameters() if weight.grad is not None}
    assert {"rows", "head.weight", "log_scale"} <= moved
    assert all("lora_" in name for name in moved - {"rows", "head.weight", "log_scale"})
    assert not any("visual" in name for name in moved)
    assert model.get_input_embeddings().weight.grad is None
    assert trainee.rows.dtype == torch.float32
    assert trainee.rows.grad is not None
    assert trainee.rows.grad.abs().sum(-1).min() >= 0
    assert all(trainee.rows.grad[n].abs().sum() > 0 for n in (0, 1))


def test_half_precision_is_only_the_models_own() -> None:
    trainee = a_trainee(tiny_qwen3vl(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = trainee(pack(a_batch(the_run())))
    total.backward()
    assert {weight.dtype for weight in trainee.parameters() if weight.requires_grad} == {torch.float32}
    exact = a_trainee(tiny_qwen3vl(torch.float32))(pack(a_batch(the_run())))[0]
    assert total.item() == pytest.approx(exact.item(), rel=0.05)


# --- the query


def unit(*rows: list[float]) -> Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_a_query_is_told_from_every_memory_but_its_own() -> None:
    values = unit([1, 0, 0], [0, 1, 0], [0, 0, 1])
    right = torch.tensor([[True, False, False]])
    near, far = (infonce(unit(query), values, right, torch.tensor(10.0)) for query in ([1, 0.2, 0], [0.2, 1, 0]))
    assert near < 0.01 < 5 < far
    both = infonce(unit([0.2, 1, 0]), values, torch.tensor([[True, True, False]]), torch.tensor(10.0))
    assert both < 0.01


def test_what_says_the_same_is_no_wrong_answer() -> None:
    # Beside the right one, and nearer to the query than it by more than the margin.
    right, twin = [1.0, 0.0, 0.0], [1.0, 0.45, 0.0]
    query = unit([0.2, 1.0, 0.0])
    marks = torch.tensor([[True, False, False]])
    forgiven = infonce(query, unit(right, twin, [0, 0, 1]), marks, torch.tensor(10.0))
    punished = infonce(query, unit(right, [0.0, 1.0, 0.0], [0, 0, 1]), marks, torch.tensor(10.0))
    assert forgiven < 1 < punished


def test_one_memory_draws_its_queries_without_anything_to_tell_it_from() -> None:
    query = torch.tensor([[0.6, 0.8]], requires_grad=True)
    loss = infonce(query, unit([1, 0]), torch.tensor([[True]]), torch.tensor(10.0))
    assert loss.item() == pytest.approx(0.4)
    (grad,) = torch.autograd.grad(loss, query)
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0


def test_a_query_is_compared_as_the_search_compares_it() -> None:
    run = a_run(CAT, CAT, CAT, sft=CHATS, centre=np.full(64, 0.5, np.float32))
    trainee = a_trainee(run=run)
    batch = [one for one in a_batch(the_run()) if one.kind == "query"]
    row = pack(batch)
    states = trainee._states(row)
    with torch.no_grad():
        trainee.head.weight.normal_()
        query = Injection(torch.nn.Embedding(32, 64), trainee.head.weight).query(states[row.at(0, batch[0].query)])
        torch.testing.assert_close(
            trainee.queries(row, states)[0], torch.tensor(query / np.linalg.norm(query) - run.centre)
        )


def test_the_originals_loss_copies_the_vector_as_it_was_before_its_centre_was_taken_off() -> None:
    centre = np.zeros(64, np.float32)
    centre[0] = 0.6
    run = a_run(CAT, CAT, CAT, sft=CHATS, centre=centre)
    trainee = a_trainee(run=run, loss="mse", weights={"query": 1.0})
    batch = [one for one in a_batch(the_run()) if one.kind == "query"]
    row = pack(batch)
    states = trainee._states(row)
    asked = states[row.at(0, batch[0].query)]  # the head is the identity
    whole = torch.tensor(run.values[batch[0].positives[0]]) * 0.8 + torch.tensor(centre)
    torch.testing.assert_close(trainee(row)[0], F.mse_loss(asked, whole))


def test_ranks_count_how_many_are_nearer() -> None:
    run = a_run(CAT, CAT, CAT, sft=CHATS)
    trainee = a_trainee(run=run)
    (query,) = [one for one in a_batch(the_run()) if one.kind == "query"]
    row = pack([query])
    found = F.normalize(trainee.queries(row, trainee._states(row)), dim=-1)[0].detach()
    trainee.values[:] = torch.stack([found, F.normalize(found + 1, dim=0), -found])
    only = [Example("query", query.ids, query.parts, query.shared, query=query.query, positives=(n,)) for n in range(3)]
    assert trainee.ranks(only, 2) == [1, 2, 3]


# --- files


def test_what_is_saved_is_what_peft_loads(tmp_path: Path) -> None:
    run = the_run()
    trainee = stir(a_trainee(run=run))
    trainee.save(tmp_path)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    loaded: Any = PeftModel.from_pretrained(tiny_qwen3vl(), str(tmp_path / "adapter"))
    ids = torch.tensor([list(range(40))])
    own: Any = trainee.peft.get_base_model()
    own.get_decoder().set_attn_implementation("sdpa")
    expected = own.get_decoder()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(loaded.get_base_model().get_decoder()(input_ids=ids).last_hidden_state, expected)
    ours = load_file(tmp_path / "recall.safetensors")
    assert {name: tuple(one.shape) for name, one in ours.items()} == {
        "rows": (3, 64),
        "head.weight": (64, 64),
        "gain": (1,),
    }
    torch.testing.assert_close(ours["rows"], trainee.rows)


def test_it_goes_on_from_fewer_layers_and_a_lower_rank(tmp_path: Path) -> None:
    first = stir(a_trainee(targets=QV))
    first.save(tmp_path)
    second = a_trainee(rank=5, begin=tmp_path)
    row = pack(a_batch(the_run()))
    torch.testing.assert_close(second._states(row), first._states(row))


@pytest.mark.parametrize("changes", [{"targets": QV}, {"rank": 1}])
def test_it_goes_on_from_more_and_trains_only_what_is_asked(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = stir(a_trainee())
    first.save(tmp_path)
    second = a_trainee(**changes, begin=tmp_path)
    row = pack(a_batch(the_run()))
    torch.testing.assert_close(second._states(row), first._states(row))
    trained = [name for name, one in second.peft.named_parameters() if one.requires_grad]
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == set(changes.get("targets", LINEARS))


@pytest.mark.parametrize(
    "file", ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "recall.safetensors"]
)
def test_a_torn_beginning_is_told(tmp_path: Path, file: str) -> None:
    a_trainee().save(tmp_path)
    (tmp_path / file).write_bytes(b"{")
    with pytest.raises(InvalidRequest, match=tmp_path.name):
        a_trainee(begin=tmp_path)


def test_a_layer_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(InvalidRequest, match="no linear layer wide_proj to train; it has down_proj"):
        a_trainee(targets=["q_proj", "wide_proj"])
