"""Recalls on real models: what goes in is one vector and the stored text, and no position, key or token is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from qqmem.engine.cache import KV
from qqmem.engine.generation import Generation
from qqmem.engine.model import Feed, Held, LanguageModel, load_model
from qqmem.engine.recall import RECALL
from qqmem.engine.scheduler import plan
from qqmem.engine.types import (
    Ask,
    Found,
    Item,
    Opening,
    Piece,
    Recalled,
    Recalling,
    Request,
    Row,
    Sampling,
    State,
    Vector,
)
from tests.tiny import VOCAB, flat, greedy, tiny_qwen2, tiny_qwen3vl, tiny_tokenizer

MAKERS: dict[str, Callable[..., PreTrainedModel]] = {"qwen2": tiny_qwen2, "qwen3-vl": tiny_qwen3vl}
OPEN, SHUT, PAD = range(261, 264)
HIDDEN = 64
NOTHING = "(no)"
NEW = 12

prompts = st.lists(st.integers(0, 255), min_size=1, max_size=40)
texts = st.text(alphabet="猫狗ab", max_size=8)


def value(seed: int) -> Vector:
    drawn = np.random.default_rng(seed).standard_normal(HIDDEN).astype(np.float32)
    return cast(Vector, drawn / np.linalg.norm(drawn))


founds = st.one_of(
    st.none(), st.builds(Found, texts, st.one_of(st.none(), st.builds(value, st.integers(0, 9))), st.booleans())
)


class Recorded(LanguageModel):
    """Remembers the hidden state of every position that it was asked about: by KV, then by position."""

    seen: dict[KV, dict[int, Tensor]]

    def forward(self, feed: Sequence[Feed]) -> Tensor:
        hidden = super().forward(feed)
        for one, state in zip(feed, hidden, strict=True):
            self.seen.setdefault(one.kv, {})[one.kv.length + len(one.tokens) - 1] = state.clone()
        return hidden


@lru_cache
def reference(name: str) -> PreTrainedModel:
    return MAKERS[name]()


@lru_cache
def ours(name: str) -> Recorded:
    model = flat(MAKERS[name](), rows=VOCAB)
    model.__class__ = Recorded
    cast(Recorded, model).seen = {}
    return cast(Recorded, model)


def fresh(name: str) -> Recorded:
    """The model without what earlier examples have left."""
    model = ours(name)
    model.cache.clear()
    model.seen.clear()
    return model


async def never(ask: Ask) -> Found | None:
    raise AssertionError("the writer below answers by itself")


class Writer:
    """One request, whose memories come at once. It writes `<recall>` where `asks` says, if it may: by its n-th token.

    read: what the model has read, behind the prompt. injected: vectors by position.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        *,
        founds: Sequence[Found | None] = (),
        asks: Sequence[int] = (),
        conversation: str | None = None,
        n: int = NEW,
        recalls: bool = True,
        after: str = "",
    ) -> None:
        recalling = Recalling(never, NOTHING, limit=9, after=after, after_nothing=after) if recalls else None
        request = Request(tuple(prompt), n, conversation=conversation, recall=recalling, channel="think")
        self.generation = Generation.start(request, model, 0, 0)
        self.founds, self.asks = list(founds), set(asks)
        self.read: list[int] = []
        self.sampled: list[int] = []
        self.injected: dict[int, Vector] = {}
        self.items: list[Item] = []

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.generation.request.prompt

    @property
    def held(self) -> Held:
        return cast(Held, self.generation.running)

    def take(self, row: Row, got: int | Vector | None) -> None:
        if row.value is not None:
            self.injected[self.held.length - len(row.tokens)] = row.value
        self.read += row.tokens
        if row.want == "token":
            if len(self.sampled) in self.asks and OPEN not in row.banned:
                got = OPEN
            self.sampled.append(cast(int, got))
        for item in self.generation.advance(row, got, 0):
            if isinstance(item, Ask):
                self.items += self.generation.answer(self.founds.pop(0) if self.founds else None)
            else:
                self.items.append(item)


def run(model: LanguageModel, writers: Sequence[Writer], chunks: Callable[[], int] = lambda: 256) -> None:
    """Write all of them to their ends, together; each is released when it ends."""
    running = [writer for writer in writers if writer.generation.reason is None]
    while running:
        rows = plan([writer.generation for writer in running], chunks())
        for (index, row), got in zip(rows, model.step([row for _, row in rows]), strict=True):
            running[index].take(row, got)
        for writer in running:
            agree(writer)
            if writer.generation.reason is not None:
                model.release(writer.held, writer.generation.request.conversation)
        running = [writer for writer in running if writer.generation.reason is None]


def agree(writer: Writer) -> None:
    """Length, tokens and keys are those of what was read."""
    whole = [*writer.prompt[: writer.generation.cached], *writer.read]
    assert writer.held.kv.tokens == whole
    assert writer.held.length == writer.held.kv.length == len(whole)
    assert whole[: len(writer.prompt)] == list(writer.prompt[: len(whole)])


def full(name: str, tokens: Sequence[int], injected: dict[int, Vector]) -> tuple[Tensor, Tensor]:
    """States and logits of every position, by one forward of the unmodified model: [n, hidden], [n, vocab]."""
    model = reference(name)
    weight = cast(Tensor, model.get_input_embeddings().weight)
    embedded = weight.detach()[list(tokens)].clone()
    scale = weight.detach()[::16].norm(dim=-1).mean()
    for at, vector in injected.items():
        embedded[at] = torch.tensor(vector) * scale
    with torch.inference_mode():
        decoder = cast(Any, model.get_decoder())
        states = decoder(inputs_embeds=embedded[None], use_cache=False).last_hidden_state[0]
        return states, cast(Any, model)(inputs_embeds=embedded[None], use_cache=False).logits[0]


def spliced(found: Found | None, after: Sequence[int] = ()) -> list[int]:
    """What a recall reads behind `<recall>`."""
    encode = ours("qwen2").tokenizer.encode
    if found is None:
        return [*encode(NOTHING), SHUT, *after]
    return [*([] if found.value is None else [PAD]), *encode(found.text), SHUT, *after]


def test_the_tokens_are_where_these_tests_take_them_to_be() -> None:
    assert ours("qwen2").tokenizer.recall == ours("qwen3-vl").tokenizer.recall == (OPEN, SHUT, PAD)


# ---- without recalls ------------------------------------------------------------------------------------------------


@lru_cache
def plain(name: str, prompt: tuple[int, ...]) -> list[int]:
    return greedy(reference(name), list(prompt), NEW)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25, deadline=None)
@given(jobs=st.lists(prompts, min_size=1, max_size=3), data=st.data())
def test_without_recalls_a_model_writes_what_it_wrote_before_there_were_any(
    name: str, jobs: list[list[int]], data: st.DataObject
) -> None:
    expected = [plain(name, tuple(job)) for job in jobs]
    assume(not any({OPEN, SHUT, PAD} & set(tokens) for tokens in expected))
    model = fresh(name)
    writers = [Writer(model, job, recalls=False) for job in jobs]
    run(model, writers, lambda: data.draw(st.integers(1, 32)))
    assert [writer.sampled for writer in writers] == expected


@pytest.mark.parametrize("name", MAKERS)
def test_the_three_tokens_cannot_be_written(name: str) -> None:
    """A model that likes nothing better: the rest of its choices is as if they were not there."""

    class Fond(LanguageModel):
        def logits(self, hidden: Tensor) -> Tensor:
            logits = super().logits(hidden).clone()
            logits[:, [OPEN, SHUT, PAD]] = 1e9
            return logits

    model = flat(MAKERS[name](), rows=VOCAB)
    model.__class__ = Fond
    forbidden, allowed = Writer(model, [1, 2, 3], recalls=False), Writer(model, [1, 2, 3])
    run(model, [forbidden, allowed])
    assert not {OPEN, SHUT, PAD} & set(forbidden.sampled)
    assert len(forbidden.sampled) == NEW
    assert allowed.sampled[:9] == [OPEN] * 9
    assert not {OPEN, SHUT, PAD} & set(allowed.sampled[9:])


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("found", [None, Found("爱吃鱼", value(1)), Found("爱吃鱼", None)])
def test_a_recall_reads_exactly_the_splice(name: str, found: Found | None) -> None:
    model = fresh(name)
    writer = Writer(model, [1, 2, 3], founds=[found], asks=[2])
    run(model, [writer])
    own = spliced(found)
    assert writer.sampled[2] == OPEN
    assert writer.read == [1, 2, 3, *writer.sampled[:3], *own, *writer.sampled[3:-1]]
    assert writer.injected == ({6: found.value} if found and found.value is not None else {})
    assert [item for item in writer.items if isinstance(item, Recalled)] == [Recalled("spliced" if found else "none")]
    assert [p.text for p in writer.items if isinstance(p, Piece) and p.channel == "memory"] == ["爱吃鱼"] * bool(found)


@pytest.mark.parametrize("name", MAKERS)
def test_a_prompt_that_ends_in_recall_reads_exactly_the_splice(name: str) -> None:
    model, found = fresh(name), Found("爱吃鱼", value(1))
    writer = Writer(model, [1, 2, 3, OPEN], founds=[found], after="so")
    run(model, [writer])
    after = model.tokenizer.encode("so")
    assert writer.read == [1, 2, 3, OPEN, *spliced(found, after), *writer.sampled[:-1]]
    assert [vector is found.value for vector in writer.injected.values()] == [True]
    assert list(writer.injected) == [4]


class Reciting(LanguageModel):
    """Greedily writes a text by heart behind every pad."""

    by_heart: Sequence[int]

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        got = super().step(rows)
        for i, row in enumerate(rows):
            if row.want == "likeliest":
                tokens = cast(Held, row.running).kv.tokens
                got[i] = self.by_heart[tokens[::-1].index(PAD)]
        return got


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=10, deadline=None)
@given(stored=texts, own=texts)
def test_a_decodable_memory_is_the_stored_text_in_any_case(name: str, stored: str, own: str) -> None:
    model = flat(MAKERS[name](), rows=VOCAB)
    model.__class__ = Reciting
    by_heart = [*model.tokenizer.encode(own), SHUT]
    cast(Reciting, model).by_heart = [*by_heart, *[0] * 99]
    found = Found(stored, value(3), decodable=True)
    writer = Writer(model, [1, 2, OPEN], founds=[found], n=99)
    run(model, [writer])
    assert writer.read[: 2 + 1 + len(spliced(found))] == [1, 2, OPEN, *spliced(found)]
    assert Recalled("decoded" if own == stored else "spliced") in writer.items


# ---- states, logits, positions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_states_and_logits_are_those_of_one_full_forward_alone_and_in_any_batch(name: str, data: st.DataObject) -> None:
    """Sequences of all kinds, read in random chunks; each state that was looked at is compared. float32, 1e-4."""
    model = fresh(name)
    writers = []
    for _ in range(data.draw(st.integers(1, 4), "batch")):
        prompt = data.draw(prompts, "prompt") + [OPEN] * data.draw(st.integers(0, 1), "opened")
        recalls = data.draw(st.lists(founds, max_size=4), "founds")
        asks = data.draw(st.sets(st.integers(0, NEW)), "asks")
        writers.append(Writer(model, prompt, founds=recalls, asks=sorted(asks), recalls=data.draw(st.booleans())))
    run(model, writers, lambda: data.draw(st.integers(1, 32), "chunk"))
    for writer in writers:
        states, logits = full(name, writer.read, writer.injected)
        seen = model.seen[writer.held.kv]
        at = sorted(seen)
        assert at[-1] == len(writer.read) - 1
        got = torch.stack([seen[i] for i in at])
        torch.testing.assert_close(got, states[at], atol=1e-4, rtol=1e-4)
        with torch.inference_mode():
            torch.testing.assert_close(model.logits(got), logits[at], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_the_vector_changes_what_follows_and_nothing_before(name: str) -> None:
    """Or the comparison above would show nothing."""
    tokens = [1, 2, 3, OPEN, PAD, 4, SHUT, 5]
    with_it, _ = full(name, tokens, {4: value(1)})
    without, _ = full(name, tokens, {})
    assert torch.equal(with_it[:4], without[:4])
    assert (with_it[4:] - without[4:]).norm(dim=-1).min() > 0.1


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=15, deadline=None)
@given(token=st.integers(0, 20), temperature=st.sampled_from([0.0, 0.7, 5.0]), seed=st.integers(0, 99))
def test_an_opening_comes_if_it_leads_by_its_margin_whatever_is_drawn(
    name: str, token: int, temperature: float, seed: int
) -> None:
    model = fresh(name)
    _, logits = full(name, [1, 2, 3], {})
    others = logits[-1].clone()
    others[token] = -torch.inf
    lead = float(logits[-1, token] - others.max())

    def first(margin: float) -> int | Vector | None:
        held = model.start(Request((1, 2, 3), 9, Sampling(temperature, seed=seed)))
        return model.step([Row(held, [1, 2, 3], opening=Opening(token, margin))])[0]

    assert first(lead - 0.01) == token
    assert first(lead + 0.01) != token


@pytest.mark.parametrize("name", MAKERS)
def test_the_query_is_the_state_of_recall(name: str) -> None:
    model = fresh(name)
    held = model.start(Request((1, 2, OPEN), 9))
    (query,) = model.step([Row(held, [1, 2, OPEN], "query")])
    states, _ = full(name, [1, 2, OPEN], {})
    assert isinstance(query, np.ndarray)
    assert query.dtype == np.float32
    np.testing.assert_allclose(query, states[-1].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=15, deadline=None)
@given(prompt=prompts, kept=prompts, chunk=st.integers(1, 50))
def test_the_state_of_a_prompt_is_that_of_a_full_forward_with_or_without_kept_kv(
    name: str, prompt: list[int], kept: list[int], chunk: int
) -> None:
    model = fresh(name)
    run(model, [Writer(model, prompt[: len(prompt) // 2] + kept, conversation="c")])
    generation = Generation.start(Request(tuple(prompt), 1, wants="state"), model, 0, 0)
    items: list[Item | Ask] = []
    while generation.reason is None:
        row = generation.row(chunk)
        (got,) = model.step([row])
        items += generation.advance(row, got, 0)
    states, _ = full(name, prompt, {})
    (state,) = items
    assert isinstance(state, State)
    np.testing.assert_allclose(state.vector, states[-1].numpy(), atol=1e-4, rtol=1e-4)
    assert generation.num_new == 0


def test_a_vector_that_does_not_fit_leaves_every_row_as_it_was() -> None:
    model = fresh("qwen2")
    good, bad = Writer(model, [1, 2, 3]), model.start(Request((1, OPEN), 9))
    with pytest.raises(RuntimeError):
        model.step([good.generation.row(9), Row(bad, [PAD], "token", (), np.ones(7, np.float32))])
    assert good.held.length == bad.length == 0
    run(model, [good])
    assert good.read[:3] == [1, 2, 3]


# ---- between the turns ----------------------------------------------------------------------------------------------


def kept(model: LanguageModel, conversation: str) -> list[int]:
    """The tokens whose KV is kept."""
    return list(model.cache._kept[conversation].tokens)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_turns_with_recalls_read_and_write_the_same_with_kept_kv_and_without(name: str, data: st.DataObject) -> None:
    """A conversation of several turns, twice: warm, and with the cache cleared before each. Some are broken off."""
    turns, warm = list[dict[str, Any]](), list[Writer]()
    history: list[int] = data.draw(prompts, "system")
    for _ in range(data.draw(st.integers(2, 3), "turns")):
        recalls = data.draw(st.lists(founds, max_size=3), "founds")
        asks = sorted(data.draw(st.sets(st.integers(0, NEW)), "asks"))
        history = [*history, *data.draw(prompts, "said")]
        opened = [OPEN] * data.draw(st.integers(0, 1), "opened")
        num_new = data.draw(st.integers(1, NEW), "n")
        turns.append({"prompt": [*history, *opened], "founds": recalls, "asks": asks, "n": num_new})
    model = fresh(name)
    for job in turns:
        writer = Writer(model, conversation="c", **job)
        run(model, [writer], lambda: 7)
        assert not {OPEN, SHUT, PAD} & set(kept(model, "c")), "nothing of a recall is kept"
        read = [*writer.prompt[: writer.generation.cached], *writer.read]
        assert kept(model, "c") == list(itertools.takewhile(lambda token: token != OPEN, read))
        warm.append(writer)
    assert any(writer.generation.cached for writer in warm), "what is plain is reused"
    for job, before in zip(turns, warm, strict=True):
        model.cache.clear()
        writer = Writer(model, conversation="c", **job)
        run(model, [writer])
        assert writer.sampled == before.sampled
        assert writer.items == before.items


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=15, deadline=None)
@given(leave_at=st.integers(0, 30), found=founds, said=prompts)
def test_who_leaves_in_the_middle_of_a_recall_leaves_only_the_plain_prefix(
    name: str, leave_at: int, found: Found | None, said: list[int]
) -> None:
    model = fresh(name)
    prompt = [1, 2, 3, *said]
    writer = Writer(model, prompt, founds=[found], asks=[1], conversation="c")
    for _ in range(leave_at):
        if writer.generation.reason is None:
            (row,) = plan([writer.generation], 3)
            writer.take(row[1], model.step([row[1]])[0])
    model.release(writer.held, "c")
    assert kept(model, "c") == list(itertools.takewhile(lambda token: token != OPEN, writer.read))
    again = [Writer(model, [*prompt, 9, 8], conversation="c")]
    run(model, again)
    model.cache.clear()
    cold = [Writer(model, [*prompt, 9, 8])]
    run(model, cold)
    assert again[0].sampled == cold[0].sampled


# ---- loading --------------------------------------------------------------------------------------------------------


def saved(folder: Path, rows: int) -> Path:
    model = tiny_qwen2()
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_loaded_model_has_the_tokens_on_free_rows_that_begin_with_a_meaning(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, VOCAB), device="cpu", dtype="float32")
    assert model.tokenizer.recall == (OPEN, SHUT, PAD)
    weight = model._embed.weight
    assert weight.shape[0] == VOCAB, "the matrix keeps its size"
    for token, text in zip((OPEN, SHUT, PAD), RECALL, strict=True):
        torch.testing.assert_close(weight[token], weight[model.tokenizer.encode(text)].mean(0))


def test_a_model_without_free_rows_writes_without_memories(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows for all but the last of the three tokens."""
    expected = load_model(saved(tmp_path / "a", 263), device="cpu", dtype="float32")
    assert expected.tokenizer.recall is None
    assert "no free rows" in caplog.text
    writer = Writer(expected, [1, 2, 3], founds=[Found("x", None)], asks=[0])
    run(expected, [writer])
    assert writer.generation.recall is None
    assert len(writer.sampled) == NEW or writer.generation.reason == "stop"
    room = load_model(saved(tmp_path / "b", 264), device="cpu", dtype="float32")
    assert room.tokenizer.recall == (OPEN, SHUT, PAD)
