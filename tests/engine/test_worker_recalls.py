"""Recalls and background work behind the worker's queue: who waits for whom, and what is left when a reader goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qqmem.engine.generation import Generation
from qqmem.engine.scheduler import plan
from qqmem.engine.types import (
    BACKGROUND,
    TURN,
    Ask,
    Channel,
    Finish,
    Found,
    Item,
    Opening,
    Piece,
    Recalled,
    Recalling,
    Request,
    Row,
    Vector,
)
from qqmem.engine.worker import Engine
from qqmem.errors import EngineStopped
from tests.fakes_engine import OPEN, CharTokenizer, Recital, ScriptedModel, text_of

tokenizer = CharTokenizer()
VALUE = np.array([0.6, 0.8], np.float32)
FISH = Found("爱吃鱼", VALUE)
THOUGHT = "<think>想<recall>哦</think>鱼。"


class Model(ScriptedModel):
    """Remembers its sequences after they end, and can be waited for.

    at_step: called, with its number, before a step; from the model's thread.
    """

    def __init__(self, script: str = THOUGHT, at_step: Callable[[int], object] = lambda _: None, **kwargs: object):
        super().__init__(script=lambda _: script, **kwargs)  # type: ignore[arg-type]
        self.recitals: list[Recital] = []
        self.steps: list[list[str]] = []
        self.released = threading.Semaphore(0)
        self.at_step = at_step

    def load(self) -> Model:
        self._thread = threading.get_ident()
        return self

    def start(self, request: Request) -> Recital:
        self.recitals.append(super().start(request))
        return self.recitals[-1]

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        self.at_step(len(self.steps))
        self.steps.append([text_of(row.tokens) for row in rows])
        return super().step(rows)

    def release(self, running: object, keep: str | None) -> None:
        super().release(running, keep)
        self.released.release()

    async def is_released(self) -> bool:
        """Wait, without a word to the engine, until one more sequence has ended."""
        return await asyncio.to_thread(self.released.acquire, timeout=10)

    def read(self, number: int = 0) -> str:
        """All that a sequence has read behind its prompt."""
        recital = self.recitals[number]
        return text_of(recital.read[len(recital.request.prompt) :])


@asynccontextmanager
async def serving(model: Model, **kwargs: int) -> AsyncIterator[Engine]:
    async with Engine(model.load, **kwargs) as engine:
        yield engine


def answering(found: Found | None) -> Callable[[Ask], Awaitable[Found | None]]:
    async def find(ask: Ask) -> Found | None:
        return found

    return find


def ask(find: Callable[[Ask], Awaitable[Found | None]], text: str = "?", n: int = 1000, **kwargs: object) -> Request:
    recalling = Recalling(find, "(无)", after="所以", after_nothing="没有")
    return Request(tuple(tokenizer.encode(text)), n, recall=recalling, **kwargs)  # type: ignore[arg-type]


def opened(request: Request) -> Request:
    return Request((*request.prompt, OPEN), request.max_new_tokens, channel=request.channel, recall=request.recall)


async def collect(engine: Engine, request: Request) -> list[Item]:
    async with aclosing(engine.stream(request)) as items:
        return [item async for item in items]


def told(items: Sequence[Item]) -> list[str | tuple[str, Channel]]:
    """The pieces with their channels, joined; the modes of recalls; how it ended."""
    story: list[str | tuple[str, Channel]] = []
    for item in items:
        match item:
            case Piece(text, channel):
                if story and isinstance(story[-1], tuple) and story[-1][1] == channel != "memory":
                    text = story.pop()[0] + text
                story.append((text, channel))
            case Recalled(mode):
                story.append(mode)
            case Finish(reason):
                story.append(reason)
    return story


# ---- what is read, and what is told -------------------------------------------------------------------------------


async def test_a_recall_reads_exactly_the_splice_and_is_told_in_order() -> None:
    model, asked = Model(), list[Ask]()

    async def find(ask: Ask) -> Found | None:
        asked.append(ask)
        return FISH

    async with serving(model) as engine:
        items = await collect(engine, ask(find, "爱吃什么"))
    assert model.read() == "<think>想<recall><|memory_pad|>爱吃鱼</recall>哦</think>鱼。"
    assert [value.tolist() for value in model.recitals[0].values] == [VALUE.tolist()]
    assert told(items) == [
        ("想", "think"),
        ("爱吃鱼", "memory"),
        "spliced",
        ("哦", "think"),
        ("鱼。", "reply"),
        "stop",
    ]
    assert [(one.query.tolist(), one.written) for one in asked] == [([13, OPEN], "<think>想")]
    assert isinstance(items[-1], Finish)
    usage = items[-1].usage
    assert (usage.prompt, usage.cached) == (4, 0)
    assert usage.completion == len("<think>想") + 1 + len("哦</think>鱼。"), "the memory was read, not written"


async def test_nothing_found_reads_the_fixed_span() -> None:
    model = Model()
    async with serving(model) as engine:
        items = await collect(engine, ask(answering(None)))
    assert model.read() == "<think>想<recall>(无)</recall>没有哦</think>鱼。"
    assert told(items) == [("想", "think"), "none", ("没有哦", "think"), ("鱼。", "reply"), "stop"]


@pytest.mark.parametrize(
    ("by_heart", "mode", "num_own"),
    [("爱吃鱼", "decoded", 4), ("爱吃肉", "spliced", 3), ("爱", "spliced", 2), ("爱吃鱼干", "spliced", 4)],
)
async def test_a_memory_that_the_model_writes_itself_is_checked(by_heart: str, mode: str, num_own: int) -> None:
    model = Model(by_heart=by_heart)
    async with serving(model) as engine:
        items = await collect(engine, ask(answering(Found("爱吃鱼", VALUE, decodable=True))))
    assert model.read() == "<think>想<recall><|memory_pad|>爱吃鱼</recall>哦</think>鱼。"
    assert told(items)[1:3] == [("爱吃鱼", "memory"), mode]
    assert isinstance(items[-1], Finish)
    assert items[-1].usage.completion == len(THOUGHT) - len("<recall>") + 1 + num_own, "what it wrote counts"


@pytest.mark.parametrize("channel", ["think", "reply"])
async def test_a_prompt_that_ends_in_recall_begins_with_a_recall(channel: Channel) -> None:
    model = Model("鱼<think>啊<recall>")
    request = opened(ask(answering(FISH), channel=channel))
    async with serving(model) as engine:
        items = await collect(engine, request)
    own = "<recall><|memory_pad|>爱吃鱼</recall>"
    assert model.read() == f"{own.removeprefix('<recall>')}所以鱼<think>啊{own}"
    assert told(items)[:2] == [("爱吃鱼", "memory"), "spliced"]
    assert "".join(item.text for item in items if isinstance(item, Piece)) == "爱吃鱼所以鱼啊爱吃鱼"
    assert next(item.channel for item in items if isinstance(item, Piece) and item.text == "所以") == channel
    assert isinstance(items[-1], Finish)
    assert items[-1].usage.completion == len("鱼<think>啊") + 1


@pytest.mark.parametrize("channel", ["reply", "think"])
async def test_only_the_first_token_of_a_turn_is_decided(channel: Channel) -> None:
    opening = Opening(ord("a"), 0.5)
    model = Model("<recall>ab")
    async with serving(model) as engine:
        request = ask(answering(Found("鱼", VALUE)), channel=channel)
        assert request.recall is not None
        await collect(engine, replace(request, recall=replace(request.recall, opening=opening)))
        assert model.openings[0] == opening
        assert len(model.openings) > 2
        assert set(model.openings[1:]) == {None}


async def test_a_prompt_that_ends_in_recall_goes_on_when_nothing_is_found() -> None:
    model = Model("鱼")
    async with serving(model) as engine:
        items = await collect(engine, opened(ask(answering(None), channel="think")))
    assert model.read() == "(无)</recall>没有鱼"
    assert told(items) == ["none", ("没有鱼", "think"), "stop"]


async def test_a_stop_string_in_the_forced_text_ends_the_turn() -> None:
    model = Model("鱼")
    request = ask(answering(FISH))
    recall = Recalling(answering(FISH), "", after="好。")
    async with serving(model) as engine:
        items = await collect(engine, Request((*request.prompt, OPEN), 9, stop=("。",), recall=recall))
    assert told(items)[2:] == [("好", "reply"), "stop"]
    assert model.read() == "", "nothing needs to be read behind a stop"


async def test_without_recalls_a_prompt_that_ends_in_recall_is_a_prompt() -> None:
    model = Model("鱼")
    async with serving(model) as engine:
        items = await collect(engine, Request((*tokenizer.encode("?"), OPEN), 9))
    assert told(items) == [("鱼", "reply"), "stop"]


class Compulsive(Model):
    """For an x of its script it writes `<recall>`, wherever it may."""

    def _advance(self, row: Row) -> int | Vector | None:
        got = super()._advance(row)
        return OPEN if row.want == "token" and got == ord("x") and OPEN not in row.banned else got


@pytest.mark.parametrize("channel", ["think", "reply"])
async def test_a_model_that_asks_for_ever_ends(channel: Channel) -> None:
    model = Compulsive("x" * 100)
    async with serving(model) as engine:
        items = await collect(engine, ask(answering(FISH), n=20, channel=channel))
    assert model.read() == "<recall><|memory_pad|>爱吃鱼</recall>" * 3 + "x" * 16
    assert told(items)[-2:] == [("x" * 17, channel), "length"]


@pytest.mark.parametrize(
    ("before", "num_recalls"),
    [("", 3), ("a", 0), ("a<think>", 3), ("<think>a", 3), ("<think>a</think>", 0), ("a<action>", 0)],
)
async def test_a_recall_may_begin_in_thoughts_and_at_the_start_of_a_turn_only(before: str, num_recalls: int) -> None:
    model = Compulsive(before + "x" * 9)
    async with serving(model) as engine:
        items = await collect(engine, ask(answering(None)))
    assert sum(isinstance(item, Recalled) for item in items) == num_recalls


class Doubtful(Model):
    """Leaves out what it may not write."""

    def _advance(self, row: Row) -> int | Vector | None:
        script = self.recitals[0].script
        while row.want == "token" and script[0] in row.banned:
            del script[0]
        return super()._advance(row)


@pytest.mark.parametrize(
    ("script", "thought", "end"),
    [
        ("<think>想</think>\n<think>再想", ord("<"), ("think>再想", "reply")),
        ("<think>想<recall></think><think>再想", ord("<"), ("think>再想", "reply")),
        ("<think>想</think>1<2", ord("<"), ("1<2", "reply")),
        ("<think>想</think><think>再想", None, ("想再想", "think")),
    ],
)
async def test_who_is_led_through_a_thought_has_one(script: str, thought: int | None, end: tuple[str, Channel]) -> None:
    recall = Recalling(answering(FISH), "(无)", thought=thought)
    async with serving(Doubtful(script)) as engine:
        items = await collect(engine, Request(tuple(tokenizer.encode("?")), 99, recall=recall))
    assert told(items)[-2:] == [end, "stop"]


@pytest.mark.parametrize("recall", [None, Recalling(answering(FISH), "", sampled=False)])
async def test_a_model_that_may_not_ask_does_not(recall: Recalling | None) -> None:
    model = Compulsive("<think>xx")
    async with serving(model) as engine:
        await collect(engine, Request((1,), 99, recall=recall))
    assert model.read() == "<think>xx"


async def test_an_answer_that_fills_the_context_ends_the_text() -> None:
    model = Model(max_context=40)
    async with serving(model) as engine:
        items = await collect(engine, ask(answering(Found("鱼" * 60, VALUE))))
        again = await collect(engine, ask(answering(None)))
    assert told(items) == [("想", "think"), ("鱼" * 60, "memory"), "spliced", "length"]
    assert told(again)[-1] == "stop"


async def test_tokens_run_out_before_a_memory_is_asked_for() -> None:
    model = Model()
    async with serving(model) as engine:
        items = await collect(engine, ask(answering(FISH), n=len("<think>想") + 1))
    assert told(items) == [("想", "think"), "length"]


async def test_tokens_run_out_while_a_memory_is_written() -> None:
    model = Model(by_heart="爱吃鱼")
    async with serving(model) as engine:
        items = await collect(engine, ask(answering(Found("爱吃鱼", VALUE, decodable=True)), n=len("<think>想") + 3))
    assert told(items) == [("想", "think"), "length"]


# ---- waiting for a memory -----------------------------------------------------------------------------------------


async def test_others_write_on_while_one_waits_for_its_memory() -> None:
    model, others_are_done = Model(), asyncio.Event()

    async def late(ask: Ask) -> Found | None:
        await others_are_done.wait()
        return FISH

    async with serving(model) as engine:
        slow = asyncio.create_task(collect(engine, ask(late)))
        others = await asyncio.gather(*(collect(engine, ask(answering(FISH))) for _ in range(3)))
        others_are_done.set()
        assert told(await slow) == told(others[0])
    assert all(model.read(i) == model.read(0) for i in range(4))


async def test_a_search_that_fails_is_nothing_found(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(ask: Ask) -> Found | None:
        raise OSError("the index is gone")

    model = Model()
    async with serving(model) as engine:
        items = await collect(engine, ask(broken))
    assert told(items)[1] == "none"
    assert model.read() == "<think>想<recall>(无)</recall>没有哦</think>鱼。"
    assert "the index is gone" in caplog.text


async def test_a_search_that_never_ends_costs_no_more_than_the_time_limit(caplog: pytest.LogCaptureFixture) -> None:
    async def never(ask: Ask) -> Found | None:
        await asyncio.Event().wait()
        return FISH

    model = Model()
    async with serving(model) as engine:
        items = await collect(engine, ask(never, time_limit=0.2, conversation="c"))
        assert await model.is_released()
    assert told(items)[-1] == "time"
    assert model.kept == ["c"]


async def test_a_text_that_has_no_tokens_fails_its_request_alone() -> None:
    class Strict(CharTokenizer):
        def encode(self, text: str) -> list[int]:
            text.encode()
            return super().encode(text)

    model = Model(tokenizer=Strict())
    async with serving(model) as engine:
        bad = asyncio.create_task(collect(engine, ask(answering(Found("\ud800", VALUE)))))
        good = await collect(engine, ask(answering(FISH)))
        with pytest.raises(UnicodeEncodeError):
            await bad
        assert told(good)[-1] == "stop"
        assert not await engine.call(lambda _: model.live)
        assert engine.stats.failed == 1


async def test_closing_the_engine_ends_who_waits_for_a_memory() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(ask: Ask) -> Found | None:
        asked.set()
        await answer.wait()
        return FISH

    model = Model()
    async with serving(model) as engine:
        task = asyncio.create_task(collect(engine, ask(slow)))
        await asked.wait()
    answer.set()
    with pytest.raises(EngineStopped):
        await task
    assert model.closed


async def test_a_reader_that_is_cancelled_while_it_searches_frees_its_place() -> None:
    asked = asyncio.Event()

    async def forever(ask: Ask) -> Found | None:
        asked.set()
        await asyncio.Event().wait()
        return None

    model = Model()
    async with serving(model, max_batch=1) as engine:
        task = asyncio.create_task(collect(engine, ask(forever, conversation="c")))
        await asked.wait()
        task.cancel()
        assert await model.is_released()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not model.live
        assert model.kept == ["c"]
        assert told(await collect(engine, ask(answering(FISH), conversation="c")))[-1] == "stop"


async def test_a_search_that_is_cancelled_by_itself_ends_the_stream() -> None:
    async def given_up(ask: Ask) -> Found | None:
        raise asyncio.CancelledError

    model = Model()
    async with serving(model) as engine:
        with pytest.raises(asyncio.CancelledError):
            await collect(engine, ask(given_up))
        assert await model.is_released()
        assert told(await collect(engine, ask(answering(FISH))))[-1] == "stop"


@pytest.mark.parametrize("decodable", [False, True])
@settings(max_examples=40, deadline=None)
@given(leave_at=st.integers(0, 60), chunk=st.sampled_from([1, 2, 256]), with_prompt=st.booleans())
def test_a_reader_may_leave_at_any_step_and_leaves_nothing_behind(
    decodable: bool, leave_at: int, chunk: int, with_prompt: bool
) -> None:
    """It leaves while the model is in the step, so that anything may still be on its way to the reader."""

    async def main() -> None:
        loop, gone, task = asyncio.get_running_loop(), threading.Event(), list[asyncio.Task[list[Item]]]()

        def at_step(number: int) -> None:
            if number == leave_at:
                loop.call_soon_threadsafe(task[0].cancel)
                gone.wait()

        model = Model("<think>想<recall>" * 2 + "好", by_heart="爱吃肉", at_step=at_step)
        request = ask(answering(Found("爱吃鱼", VALUE, decodable)), conversation="c")
        async with serving(model, max_batch=1, prefill_chunk=chunk) as engine:
            task.append(asyncio.create_task(collect(engine, opened(request) if with_prompt else request)))
            task[0].add_done_callback(lambda _: gone.set())
            in_line = asyncio.create_task(collect(engine, request))
            assert await model.is_released()
            assert told(await in_line)[-1] == "stop", "whoever is next in line goes on"
            (left,) = await asyncio.gather(task[0], return_exceptions=True)
            if not isinstance(left, asyncio.CancelledError):
                assert isinstance(left, list)
                assert told(left)[-1] == "stop", "it had ended before"
            assert told(await collect(engine, request)) == told(in_line.result())
            assert not await engine.call(lambda _: model.live)
            assert engine.stats.finished + engine.stats.cancelled == 3

    asyncio.run(main())


# ---- background work ------------------------------------------------------------------------------------------------


def begun(model: Model, text: str, priority: int, **kwargs: object) -> Generation:
    request = Request(tuple(tokenizer.encode(text)), 9, priority=priority, **kwargs)  # type: ignore[arg-type]
    return Generation.start(request, model, 0, 0)


def planned(generations: Sequence[Generation], chunk: int) -> list[tuple[int, int]]:
    """(which, how many tokens) of a step."""
    return [(index, len(row.tokens)) for index, row in plan(generations, chunk)]


def test_a_background_prompt_is_not_read_while_somebody_waits_for_a_turn() -> None:
    model = Model()
    background, turn = begun(model, "b" * 50, BACKGROUND), begun(model, "t" * 50, TURN)
    assert planned([background], 20) == [(0, 20)]
    assert planned([background, turn], 20) == [(1, 20)]
    turn.pending = [1]
    assert planned([background, turn], 20) == [(1, 1)]
    background.pending = [1]
    assert planned([background, turn], 20) == [(0, 1), (1, 1)], "one token costs the others next to nothing"


def test_what_reads_by_the_base_rests_while_somebody_waits_for_a_turn() -> None:
    model = Model()
    base, turn = begun(model, "b", BACKGROUND, base=True), begun(model, "t", TURN)
    assert planned([base, turn], 20) == [(1, 1)]
    assert planned([base, base], 20) == [(0, 1), (1, 1)]
    assert planned([begun(model, "b", TURN, base=True)], 20) == [(0, 1)], "it would never end"


def test_a_background_prompt_is_read_while_a_turn_waits_for_its_memory() -> None:
    model = Model()
    background = begun(model, "b" * 50, BACKGROUND)
    turn = begun(model, "t", TURN, recall=ask(answering(None)).recall)
    assert turn.recall is not None
    turn.recall.opens(OPEN)
    turn.recall.ask(VALUE, "")
    assert turn.is_waiting
    assert planned([background, turn], 20) == [(0, 20)]


def test_a_memory_is_read_in_chunks_beside_those_who_write() -> None:
    model = Model()
    writer = begun(model, "w", TURN)
    turn = begun(model, "t", TURN, recall=ask(answering(None)).recall)
    assert turn.recall is not None
    turn.recall.opens(OPEN)
    turn.recall.ask(VALUE, "")
    turn.pending.clear()
    turn.answer(Found("鱼" * 10, VALUE))
    rows = []
    while len(turn.pending) > 1:
        (_, first), (_, second) = plan([turn, writer], 5)
        assert first.running is writer.running
        rows.append(second)
        turn.advance(second, None, 0)
    assert [len(row.tokens) for row in rows] == [4, 4, 4]
    assert [row.value is VALUE for row in rows] == [True, False, False], "the vector goes in once, with the pad"


async def test_background_work_has_one_place_of_its_own() -> None:
    gate = threading.Semaphore(0)
    model = Model("好", gate=gate)
    async with serving(model, max_batch=2) as engine:

        def begin(text: str, priority: int) -> asyncio.Task[list[Item]]:
            return asyncio.create_task(collect(engine, Request((ord(text),), 9, priority=priority)))

        tasks = [begin("b", BACKGROUND)]
        await asyncio.to_thread(model.began.wait)
        tasks += [begin("c", BACKGROUND), *(begin(text, TURN) for text in "tuv")]
        for _ in range(2):  # the first step was under way before they came
            prompts = asyncio.create_task(engine.call(lambda _: list(model.prompts)))
            await asyncio.sleep(0)
            gate.release()
            seen = await prompts
        gate.release(99)
        done = await asyncio.gather(*tasks)
    assert seen == ["b", "t", "u"], "as many people as ever beside one of its kind"
    assert [told(items) for items in done] == [[("好", "reply"), "stop"]] * 5
    assert model.widest == 3


async def test_what_rests_for_others_has_as_many_places_as_they() -> None:
    gate = threading.Semaphore(0)
    model = Model("好的", gate=gate)
    async with serving(model, max_batch=3) as engine:
        requests = [Request((ord(text),), 9, priority=BACKGROUND, base=True) for text in "abcdefgh"]
        tasks = [asyncio.create_task(collect(engine, request)) for request in requests]
        await asyncio.to_thread(model.began.wait)  # all have come before its first step is over
        gate.release(99)
        done = await asyncio.gather(*tasks)
    assert [told(items) for items in done] == [[("好的", "reply"), "stop"]] * 8
    assert model.widest == 3


async def test_a_state_is_that_of_the_last_token_and_nothing_is_written() -> None:
    model = Model()
    async with serving(model) as engine:
        states = await asyncio.gather(*(engine.encode(tokenizer.encode(text)) for text in ("ab", "abc")))
        assert engine.stats.new_tokens == 0
        assert not await engine.call(lambda _: model.live)
    assert [state.tolist() for state in states] == [[2, ord("b")], [3, ord("c")]]
    assert model.kept == []


async def test_a_state_waits_until_no_turn_is_running() -> None:
    gate = threading.Semaphore(0)
    model = Model("x" * 30, gate=gate)
    async with serving(model, prefill_chunk=4) as engine:
        turn = asyncio.create_task(collect(engine, Request((ord("t"),), 99)))
        await asyncio.to_thread(model.began.wait)
        state = asyncio.create_task(engine.encode(tokenizer.encode("b" * 40)))
        await asyncio.sleep(0)
        gate.release(99)
        await asyncio.gather(turn, state)
    with_turn = [step for step in model.steps if any("b" not in tokens for tokens in step)]
    assert len(with_turn) == 31
    assert not [step for step in with_turn if any("b" in tokens for tokens in step)]
    assert [tokens for step in model.steps if step not in with_turn for tokens in step] == ["bbbb"] * 10


async def test_a_state_for_a_person_does_not_wait() -> None:
    """A query is encoded while turns are running."""
    gate = threading.Semaphore(1)
    model = Model("x" * 30, gate=gate)
    async with serving(model) as engine:
        turn = asyncio.create_task(collect(engine, Request((ord("t"),), 99)))
        await asyncio.to_thread(model.began.wait)
        state = asyncio.create_task(engine.encode(tokenizer.encode("q" * 9), TURN))
        await asyncio.sleep(0)
        gate.release(10)
        got = await state
        gate.release(99)
        await turn
    assert got.tolist() == [9, ord("q")]


async def test_a_state_that_nobody_wants_any_more_leaves_nothing() -> None:
    gate = threading.Semaphore(0)
    model = Model("x" * 30, gate=gate)
    async with serving(model) as engine:
        turn = asyncio.create_task(collect(engine, Request((ord("t"),), 99)))
        await asyncio.to_thread(model.began.wait)
        state = asyncio.create_task(engine.encode(tokenizer.encode("b" * 40)))
        await asyncio.sleep(0)
        state.cancel()
        with pytest.raises(asyncio.CancelledError):
            await state
        gate.release(99)
        await turn
        assert not await engine.call(lambda _: model.live)
        assert (await engine.encode(tokenizer.encode("bb"))).tolist() == [2, ord("b")]
    assert not any("bbb" in tokens for step in model.steps for tokens in step)


async def test_a_stopped_engine_encodes_nothing() -> None:
    async with serving(Model()) as engine:
        pass
    with pytest.raises(EngineStopped):
        await engine.encode([1])
