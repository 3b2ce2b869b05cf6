"""A release on the serving model: what peft computes, taken off without a trace, and never seen by vectors."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import PreTrainedModel

from qqmem.engine.cache import KV
from qqmem.engine.model import Feed, LanguageModel
from qqmem.engine.types import Finish, Piece, Request, Row, Vector
from qqmem.engine.worker import Engine
from qqmem.errors import EngineStopped, ModelError
from tests.engine.test_model import MAKERS
from tests.fakes_engine import CharTokenizer, ScriptedModel
from tests.tiny import VOCAB, flat, tiny_qwen2

# peft asks transformers for something by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = [5, 17, 200, 33, 8, 90]
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def release(folder: Path, model: PreTrainedModel, *, seed: int = 0, head: bool = False) -> torch.Tensor:
    """Write a release of random numbers for a fresh `model`. Returns the logits that peft computes with it, [vocab]."""
    torch.manual_seed(seed)
    size = model.config.get_text_config().hidden_size
    vision = r".*language_model.*\.(" if hasattr(model.config, "vision_config") else r".*\.("
    config = LoraConfig(r=4, lora_alpha=8, target_modules=vision + "|".join(TARGETS) + ")", init_lora_weights=False)
    trained = get_peft_model(model, config)
    trained.save_pretrained(str(folder / "adapter"))
    recall = {"rows": torch.randn(3, size), "gain": torch.tensor([2.0])}
    save_file(recall | ({"head.weight": torch.randn(size, size)} if head else {}), folder / "recall.safetensors")
    with torch.inference_mode():
        logits: torch.Tensor = trained(torch.tensor([IDS])).logits[0, -1].float()
    return logits


def logits(model: LanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model.forward([Feed(KV(), IDS)]))[0].float()


def state(model: LanguageModel, ids: list[int] | None = None) -> Vector:
    """As a request that wants a state gets it, beside a sequence that writes."""
    wanted = model.start(Request(tuple(ids or IDS), 1, wants="state"))
    writing = model.start(Request((1, 2, 3), 1))
    got, token = model.step([Row(wanted, ids or IDS, "state"), Row(writing, [1, 2, 3])])
    assert isinstance(token, int)
    assert not isinstance(got, int)
    assert got is not None
    return got


@pytest.mark.parametrize("name", MAKERS)
def test_a_release_computes_what_peft_computes(name: str, tmp_path: Path) -> None:
    expected = release(tmp_path, MAKERS[name]())
    model = flat(MAKERS[name](), rows=VOCAB)
    before = logits(model)
    model.use_release(tmp_path)
    tokens = torch.tensor(sorted(set(range(VOCAB)) - set(model.tokenizer.recall or ())))
    torch.testing.assert_close(logits(model)[tokens], expected[tokens], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, expected, atol=0.1), "the release would do nothing"


@pytest.mark.parametrize("name", MAKERS)
def test_taking_a_release_off_leaves_no_trace(name: str, tmp_path: Path) -> None:
    release(tmp_path / "a", MAKERS[name](), seed=1, head=True)
    release(tmp_path / "b", MAKERS[name](), seed=2)
    model = flat(MAKERS[name](), rows=VOCAB)
    before, query = logits(model), model.injection.query(torch.ones(64))
    model.use_release(tmp_path / "a")
    a = logits(model)
    assert not (model.injection.query(torch.ones(64)) == query).all()
    model.use_release(tmp_path / "b")
    assert not torch.allclose(logits(model), a, atol=0.1)
    model.use_release(tmp_path / "a")
    torch.testing.assert_close(logits(model), a)
    model.use_release(None)
    torch.testing.assert_close(logits(model), before)
    assert (model.injection.query(torch.ones(64)) == query).all()


@pytest.mark.parametrize("name", MAKERS)
def test_states_are_those_of_the_base_whatever_is_served(name: str, tmp_path: Path) -> None:
    release(tmp_path, MAKERS[name]())
    model = flat(MAKERS[name](), rows=VOCAB)
    before = state(model)
    model.use_release(tmp_path)
    writer = model.start(Request(tuple(IDS), 1, conversation="c"))
    model.step([Row(writer, IDS)])
    model.release(writer, "c")  # the kept KV of the release must not be read by the base
    assert torch.allclose(torch.tensor(state(model)), torch.tensor(before), atol=1e-5)
    assert not torch.equal(logits(model), logits(flat(MAKERS[name](), rows=VOCAB)))


def greedy(model: LanguageModel, *requests: Request, n: int = 8) -> list[list[int]]:
    """What is written for each, all in one batch."""
    running = [model.start(request) for request in requests]
    pending = [list(one.prompt[held.length :]) for one, held in zip(requests, running, strict=True)]
    written: list[list[int]] = [[] for _ in requests]
    for _ in range(n):
        banned = model.tokenizer.recall or ()
        rows = [Row(held, tokens, "token", banned) for held, tokens in zip(running, pending, strict=True)]
        for place, token in enumerate(model.step(rows)):
            assert isinstance(token, int)
            written[place].append(token)
            pending[place] = [token]
    for request, held in zip(requests, running, strict=True):
        model.release(held, request.conversation)
    return written


@pytest.mark.parametrize("name", MAKERS)
def test_the_base_alone_writes_what_it_would_without_the_release(name: str, tmp_path: Path) -> None:
    release(tmp_path, MAKERS[name](), head=True)
    model = flat(MAKERS[name](), rows=VOCAB)
    normal = Request(tuple(IDS), 9, conversation="c")
    base = Request(tuple(IDS), 9, conversation="b", base=True)
    (untrained,) = greedy(model, Request(tuple(IDS), 9))
    model.use_release(tmp_path)
    (trained,) = greedy(model, normal)
    assert trained != untrained, "the release does nothing"
    assert greedy(model, base) == [untrained]
    model.cache.clear()
    assert greedy(model, normal, base, normal) == [trained, untrained, trained]
    assert greedy(model, base) == [untrained], "it has read the KV of the release"
    model.cache.clear()
    greedy(model, base)
    assert model.kv_bytes == 0, "its KV would be read by the release"


@pytest.mark.parametrize("name", MAKERS)
def test_on_a_device_that_there_is_not_it_stays_where_it_was(name: str, tmp_path: Path) -> None:
    release(tmp_path, MAKERS[name](), head=True)
    model = flat(MAKERS[name](), rows=VOCAB)
    model.use_release(tmp_path)
    here = Request(tuple(IDS), 9, conversation="c")
    before = greedy(model, here)
    model.move("meta")
    model.move(None)
    assert model.kv_bytes, "what was loaded on the CPU stays there"
    # As if it had been loaded on a GPU.
    model._home, model._device = torch.device("cuda:99"), torch.device("cpu:0")
    model.move("cpu")
    assert model.kv_bytes == 0
    assert greedy(model, here) == before
    with pytest.raises((AssertionError, RuntimeError)):
        model.move(None)
    assert greedy(model, here) == before
    tried = list[torch.device]()

    def put(device: torch.device) -> None:
        tried.append(device)
        if device.type == "cuda":
            raise torch.OutOfMemoryError("half of it is there")

    model._put_on = put  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        model.move(None)
    assert tried == [torch.device("cuda:99"), torch.device("cpu")]


@pytest.mark.parametrize("name", MAKERS)
def test_all_of_it_moves(name: str, tmp_path: Path) -> None:
    release(tmp_path, MAKERS[name](), head=True)
    model = flat(MAKERS[name](), rows=VOCAB)
    model.use_release(tmp_path)
    model._home = torch.device("cuda")
    writer = model.start(Request(tuple(IDS), 9))
    model.step([Row(writer, IDS)])
    model.move("meta")
    (state,) = [model.forward([Feed(writer.kv, [3])])]
    assert (state.device.type, model.logits(state).device.type) == ("meta", "meta")
    assert model.injection.embedding(torch.ones(64).numpy()).device.type == "meta"
    layers = [half for one in model._adapter._layers.values() for half in (one.down, one.up)]
    parts = [*model.decoder.parameters(), *model.decoder.buffers(), *layers]
    assert {part.device.type for part in parts} == {"meta"}
    assert model.injection._head is not None
    assert model.injection._head.device.type == "meta"


def test_the_rows_are_read_and_written_and_the_int8_copy_follows(tmp_path: Path) -> None:
    release(tmp_path, tiny_qwen2(torch.bfloat16))
    model = flat(tiny_qwen2(torch.bfloat16), rows=VOCAB)
    assert model.tokenizer.recall is not None
    model.use_int8(max_rows=16)
    before = logits(model)
    model.use_release(tmp_path)
    tokens = list(model.tokenizer.recall)
    assert not torch.allclose(logits(model)[tokens], before[tokens], atol=0.5)
    with torch.inference_mode():
        hidden = model.forward([Feed(KV(), IDS)])
        rows = model._embed.weight[tokens] if model._head.weight is model._embed.weight else model._head.weight[tokens]  # type: ignore[index]
    torch.testing.assert_close(logits(model)[tokens], (hidden @ rows.T)[0].float(), atol=0.3, rtol=0.05)


def test_the_kept_kv_of_another_release_is_dropped(tmp_path: Path) -> None:
    release(tmp_path, tiny_qwen2())
    model = flat(tiny_qwen2(), rows=VOCAB)
    writer = model.start(Request(tuple(IDS), 1, conversation="c"))
    model.step([Row(writer, IDS)])
    model.release(writer, "c")
    assert model.kv_bytes
    model.use_release(tmp_path)
    assert model.start(Request((*IDS, 7), 1, conversation="c")).length == 0


@pytest.mark.parametrize(
    "fault", ["no rows", "no adapter", "torn", "config", "other shape", "other layers", "other rows"]
)
def test_a_release_that_does_not_fit_changes_nothing(tmp_path: Path, fault: str) -> None:
    release(tmp_path, tiny_qwen2())
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    match fault:
        case "no rows":
            (tmp_path / "recall.safetensors").unlink()
        case "no adapter":
            adapter.unlink()
        case "torn":
            adapter.write_bytes(adapter.read_bytes()[:999])
        case "config":
            (tmp_path / "adapter" / "adapter_config.json").write_text("{")
        case "other rows":
            save_file({"rows": torch.zeros(3, 65)}, tmp_path / "recall.safetensors")
        case "other shape" | "other layers":
            layer = "0.self_attn.q_proj" if fault == "other shape" else "99.self_attn.q_proj"
            name = f"base_model.model.model.layers.{layer}.lora_"
            save_file({f"{name}A.weight": torch.ones(4, 65), f"{name}B.weight": torch.ones(64, 4)}, adapter)
    model = flat(tiny_qwen2(), rows=VOCAB)
    before = logits(model)
    with pytest.raises(ModelError, match="release"):
        model.use_release(tmp_path)
    assert torch.equal(logits(model), before)


# ---- swapping while others write -------------------------------------------------------------------------------------


async def written(engine: Engine, text: str) -> str:
    request = Request(tuple(CharTokenizer().encode(text)), 1000)
    async with aclosing(engine.stream(request)) as items:
        pieces = [item.text async for item in items if isinstance(item, Piece | Finish) and isinstance(item, Piece)]
    return "".join(pieces)


async def test_a_swap_waits_for_those_who_write_and_holds_back_those_who_come() -> None:
    gate, order = threading.Semaphore(1), list[str]()
    async with Engine(lambda: ScriptedModel(script=lambda _: "一二三", gate=gate)) as engine:
        model = await engine.ready()
        assert isinstance(model, ScriptedModel)
        first = asyncio.create_task(written(engine, "a"))
        await asyncio.to_thread(model.began.wait)
        swap = asyncio.create_task(engine.call(lambda m: order.append(f"swap {len(m.prompts)}"), drain=60))  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        second = asyncio.create_task(written(engine, "b"))
        await asyncio.sleep(0)
        gate.release(99)
        assert await first == "一二三"
        await swap
        assert order == ["swap 1"], "nobody new began before it"
        assert await second == "一二三"


async def test_a_swap_does_not_wait_longer_than_it_was_told() -> None:
    gate = threading.Semaphore(1)
    async with Engine(lambda: ScriptedModel(script=lambda _: "一二三", gate=gate)) as engine:
        model = await engine.ready()
        assert isinstance(model, ScriptedModel)
        first = asyncio.create_task(written(engine, "a"))
        await asyncio.to_thread(model.began.wait)
        swap = asyncio.create_task(engine.call(lambda m: len(m.live), drain=0.0))  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        gate.release(99)
        assert await swap == 1, "one still writes"
        assert await first == "一二三"


async def test_a_swap_that_fails_tells_its_caller_and_others_write_on() -> None:
    def fail(_: object) -> None:
        raise ModelError("torn")

    async with Engine(lambda: ScriptedModel(script=lambda _: "一二三")) as engine:
        with pytest.raises(ModelError):
            await engine.call(fail, drain=1)
        assert await written(engine, "a") == "一二三"


async def test_a_swap_that_waits_when_the_engine_stops_is_told() -> None:
    gate = threading.Semaphore(1)
    engine = Engine(lambda: ScriptedModel(script=lambda _: "一二三", gate=gate))
    async with engine:
        model = await engine.ready()
        assert isinstance(model, ScriptedModel)
        first = asyncio.create_task(written(engine, "a"))
        await asyncio.to_thread(model.began.wait)
        swap = asyncio.create_task(engine.call(lambda _: None, drain=60))
        await asyncio.sleep(0)
        leaving = asyncio.create_task(engine.__aexit__())
        await asyncio.sleep(0)
        gate.release(99)
        _, swapped = await asyncio.gather(first, swap, return_exceptions=True)
        assert swapped is None or isinstance(swapped, EngineStopped)
        await leaving
