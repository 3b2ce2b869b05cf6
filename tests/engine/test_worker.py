"""The worker thread behind its queue: streams, cancellation, fairness, failure, and the edges of life."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given, settings, strategies as st

from qqmem.engine.inbox import Stop
from qqmem.engine.types import Finish, Item, Model, Piece, Request, Row, Vector
from qqmem.engine.worker import Engine
from qqmem.errors import EngineStopped, PromptTooLong
from tests.fakes_engine import CharTokenizer, ScriptedModel

tokenizer = CharTokenizer()


def ask(text: str, n: int = 1000, **kwargs: object) -> Request:
    return Request(tuple(tokenizer.encode(text)), n, **kwargs)  # type: ignore[arg-type]


def echo() -> ScriptedModel:
    """Recites its prompt."""
    return ScriptedModel(script=lambda prompt: prompt)


async def collect(stream: AsyncGenerator[Item, None], stop_after: int = 10**9) -> tuple[str, Finish | None]:
    text, finish, seen = "", None, 0
    async with aclosing(stream) as items:
        async for item in items:
            if isinstance(item, Finish):
                finish = item
            elif isinstance(item, Piece):
                text += item.text
                seen += 1
                if seen >= stop_after:
                    break
    return text, finish


async def test_a_stream_ends_with_its_finish() -> None:
    async with Engine(echo) as engine:
        text, finish = await collect(engine.stream(ask("你好吗")))
    assert text == "你好吗"
    assert finish is not None
    assert (finish.reason, finish.usage.prompt, finish.usage.completion) == ("stop", 3, 3)
    assert 0 <= finish.timing.queue <= finish.timing.first_token <= finish.timing.total


jobs = st.lists(
    st.tuples(st.text(min_size=1, max_size=40, alphabet="ab好\n"), st.one_of(st.none(), st.integers(1, 30))),
    min_size=1,
    max_size=16,
)


@settings(max_examples=60, deadline=None)
@given(jobs=jobs, batch=st.integers(1, 6), chunk=st.integers(1, 50))
def test_any_load_gives_each_its_own_text_and_leaks_nothing(
    jobs: list[tuple[str, int | None]], batch: int, chunk: int
) -> None:
    model: list[ScriptedModel] = []

    def load() -> Model:
        model.append(echo())
        return model[0]

    async def main() -> None:
        async with Engine(load, max_batch=batch, prefill_chunk=chunk) as engine:
            streams = [collect(engine.stream(ask(text)), stop or 10**9) for text, stop in jobs]
            for (text, stop), (got, finish) in zip(jobs, await asyncio.gather(*streams), strict=True):
                said = text.lstrip()  # white space before a reply is not part of it
                assert said.startswith(got)
                assert stop is not None or (got == said and finish is not None)
            while await engine.call(lambda m: bool(m.live)):  # type: ignore[attr-defined]
                pass  # a cancelled stream is released between two steps
        assert model[0].widest <= batch
        assert model[0].most_tokens <= max(chunk, batch) + batch
        assert model[0].closed

    asyncio.run(main())


async def test_max_new_tokens_counts_new_tokens_only() -> None:
    async with Engine(echo) as engine:
        text, finish = await collect(engine.stream(ask("x" * 500, n=10)))
    assert text == "x" * 10
    assert finish is not None
    assert finish.reason == "length"


async def test_a_stop_string_ends_the_text_and_is_not_part_of_it() -> None:
    async with Engine(lambda: ScriptedModel(script=lambda _: "abcSTOPdef")) as engine:
        text, finish = await collect(engine.stream(ask("?", stop=("STOP",))))
    assert text == "abc"
    assert finish is not None
    assert finish.reason == "stop"


async def test_a_stream_out_of_time_ends_with_what_it_has() -> None:
    gate = threading.Semaphore(3)
    async with Engine(lambda: ScriptedModel(script=lambda _: "x" * 99, gate=gate)) as engine:
        stream = engine.stream(ask("?", time_limit=0.05))
        async with aclosing(stream) as items:
            seen = [item async for item in _until(items, 3)]
            await asyncio.to_thread(threading.Event().wait, 0.06)  # the limit itself is what passes
            gate.release(99)
            rest = [item async for item in items]
    assert len(seen) == 3
    assert isinstance(rest[-1], Finish)
    assert rest[-1].reason == "time"


async def _until(items: AsyncIterator[Item], n: int) -> AsyncIterator[Item]:
    for _ in range(n):
        yield await anext(items)


async def test_a_request_that_waits_too_long_ends_without_text() -> None:
    gate, began = threading.Semaphore(0), threading.Event()
    async with Engine(lambda: ScriptedModel(gate=gate, began=began), max_batch=1) as engine:
        first = asyncio.create_task(collect(engine.stream(ask("a"))))
        second = asyncio.create_task(collect(engine.stream(ask("b", time_limit=0.0))))
        await asyncio.to_thread(began.wait)
        gate.release(9)
        assert (await second)[0] == ""
        assert (await second)[1].reason == "time"  # type: ignore[union-attr]
        assert (await first)[0] == "好的。"


async def test_a_cancelled_task_frees_its_place() -> None:
    gate = threading.Semaphore(1)
    async with Engine(lambda: ScriptedModel(script=lambda _: "x" * 10, gate=gate), max_batch=1) as engine:
        started = asyncio.Event()

        async def reader() -> None:
            async with aclosing(engine.stream(ask("?", conversation="c"))) as items:
                async for _ in items:
                    started.set()

        task = asyncio.create_task(reader())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.release(99)
        assert (await collect(engine.stream(ask("?"))))[0] == "x" * 10
        kept, live = await engine.call(lambda m: (m.kept, m.live))  # type: ignore[attr-defined]
        assert kept == ["c"], "what was read is kept for the next turn"
        assert not live
        assert engine.stats.cancelled == 1


async def test_cancel_before_the_model_is_loaded() -> None:
    loaded = threading.Event()

    def load() -> Model:
        loaded.wait()
        return echo()

    async with Engine(load) as engine:
        task = asyncio.create_task(collect(engine.stream(ask("a"))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        loaded.set()
        assert (await collect(engine.stream(ask("b"))))[0] == "b"
        assert (await engine.call(lambda m: len(m.prompts))) == 1, "the cancelled one never began"  # type: ignore[attr-defined]


async def test_a_bad_request_fails_alone() -> None:
    def script(prompt: str) -> str:
        if prompt == "boom":
            raise ValueError("bad request")
        return prompt

    async with Engine(lambda: ScriptedModel(script=script)) as engine:
        results = await asyncio.gather(
            collect(engine.stream(ask("boom"))), collect(engine.stream(ask("fine"))), return_exceptions=True
        )
    assert isinstance(results[0], ValueError)
    assert results[1][0] == "fine"  # type: ignore[index]


async def test_a_prompt_that_does_not_fit_says_so() -> None:
    async with Engine(lambda: ScriptedModel(max_context=10)) as engine:
        with pytest.raises(PromptTooLong, match="10 tokens and the model reads 10"):
            await collect(engine.stream(ask("x" * 10)))


class Faulty(ScriptedModel):
    """Cannot read an 'X'."""

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        if any(ord("X") in row.tokens for row in rows):
            raise RuntimeError("cannot read X")
        return super().step(rows)


async def test_a_sequence_that_breaks_a_step_fails_alone() -> None:
    async with Engine(lambda: Faulty(script=lambda p: "X" if p == "bad" else "long enough")) as engine:
        texts = await asyncio.gather(
            *(collect(engine.stream(ask(p))) for p in ("a", "bad", "b")), return_exceptions=True
        )
    assert [t if isinstance(t, BaseException) else t[0] for t in texts][::2] == ["long enough"] * 2
    assert isinstance(texts[1], RuntimeError)


async def test_a_long_prompt_does_not_stall_who_is_writing() -> None:
    """While 4,000 tokens are read 100 at a time, the other gets a token at every step."""
    gate, began = threading.Semaphore(0), threading.Event()
    seen: list[list[int]] = []

    class Watching(ScriptedModel):
        def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
            seen.append([len(row.tokens) for row in rows])
            return super().step(rows)

    async with Engine(lambda: Watching(script=lambda p: p[:60], gate=gate, began=began), prefill_chunk=100) as engine:
        writer = asyncio.create_task(collect(engine.stream(ask("w" * 60))))
        await asyncio.to_thread(began.wait)
        reader = asyncio.create_task(collect(engine.stream(ask("r" * 4000))))
        await asyncio.sleep(0)
        gate.release(10**6)
        await asyncio.gather(writer, reader)
    both = [counts for counts in seen if len(counts) == 2 and counts[1] > 1]
    assert len(both) >= 40
    assert all(counts[0] == 1 and sum(counts) <= 100 for counts in both)


async def test_a_reader_that_reads_no_further_holds_nobody_up() -> None:
    gate, began = threading.Semaphore(0), threading.Event()
    async with Engine(lambda: ScriptedModel(gate=gate, began=began), max_batch=1) as engine:
        async with aclosing(engine.stream(ask("a"))) as slow:
            first = asyncio.ensure_future(anext(slow))
            await asyncio.to_thread(began.wait)
            next_in_line = asyncio.create_task(collect(engine.stream(ask("b"))))
            await asyncio.sleep(0)
            gate.release(99)
            await first
            assert (await next_in_line)[0] == "好的。"


async def test_stop_ends_every_stream_and_the_thread() -> None:
    gate, began = threading.Semaphore(0), threading.Event()
    async with Engine(lambda: ScriptedModel(gate=gate, began=began), max_batch=1) as engine:
        tasks = [asyncio.create_task(collect(engine.stream(ask("?")))) for _ in range(3)]
        await asyncio.to_thread(began.wait)
        gate.release(1)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, EngineStopped) for result in results)
    assert not [thread for thread in threading.enumerate() if thread.name == "model-worker"]
    with pytest.raises(EngineStopped):
        await collect(engine.stream(ask("late")))
    with pytest.raises(EngineStopped):
        await engine.call(lambda _: None)


async def test_a_call_runs_between_steps_and_its_error_is_the_callers() -> None:
    async with Engine(echo) as engine:
        assert await engine.call(lambda model: model.max_context) == 100_000
        with pytest.raises(ZeroDivisionError):
            await engine.call(lambda _: 1 // 0)
        assert (await collect(engine.stream(ask("on"))))[0] == "on"


async def test_a_cancelled_call_does_not_disturb_the_thread() -> None:
    gate = threading.Event()
    async with Engine(echo) as engine:
        call = asyncio.create_task(engine.call(lambda _: gate.wait()))
        await asyncio.sleep(0)
        call.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await collect(engine.stream(ask("on"))))[0] == "on"


async def test_a_load_that_fails_is_told_to_all() -> None:
    def load() -> Model:
        raise OSError("no such model")

    async with Engine(load) as engine:
        with pytest.raises(OSError, match="no such model"):
            await engine.ready()
        assert isinstance(await engine.wait_failed(), OSError)
        assert engine.state == "failed"
        with pytest.raises(EngineStopped):
            await collect(engine.stream(ask("?")))


async def test_requests_made_during_a_failing_load_do_not_hang() -> None:
    loading = threading.Event()

    def load() -> Model:
        loading.wait()
        raise OSError("no such model")

    async with Engine(load) as engine:
        task = asyncio.create_task(collect(engine.stream(ask("?"))))
        await asyncio.sleep(0)
        loading.set()
        with pytest.raises(EngineStopped):
            await task


async def test_a_crash_of_the_thread_fails_everyone_at_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedModel):
        def release(self, running: object, keep: str | None) -> None:
            raise AssertionError("a bug of ours")

    async with Engine(Broken, max_batch=1) as engine:
        results = await asyncio.gather(
            *(collect(engine.stream(ask(p))) for p in "ab"),
            engine.call(lambda m: m.max_context),
            return_exceptions=True,
        )
        assert isinstance(await engine.wait_failed(), AssertionError)
        assert engine.state == "failed"
        assert all(isinstance(r, EngineStopped) for r in results[:2])
    assert caplog.text.count("the model thread has crashed") == 1


async def test_a_crash_while_a_request_begins_is_told_to_it() -> None:
    def script(prompt: str) -> str:
        raise SystemExit

    async with Engine(lambda: ScriptedModel(script=script)) as engine:
        with pytest.raises(EngineStopped):
            await collect(engine.stream(ask("?")))


async def test_a_call_that_crashes_the_thread_is_told() -> None:
    def crash(model: Model) -> None:
        raise KeyError("as bad as it gets") from None

    class Fatal(BaseException):
        pass

    def fatal(model: Model) -> None:
        raise Fatal

    async with Engine(echo) as engine:
        with pytest.raises(KeyError):
            await engine.call(crash)
        with pytest.raises(EngineStopped):
            await engine.call(fatal)
        assert isinstance(await engine.wait_failed(), Fatal)


async def test_an_idle_engine_counts_nothing_as_running() -> None:
    async with Engine(echo) as engine:
        await collect(engine.stream(ask("abc")))
        await engine.call(lambda _: None)
        assert (engine.stats.running, engine.stats.waiting, engine.stats.finished) == (0, 0, 1)
        assert (engine.stats.prompt_tokens, engine.stats.new_tokens) == (3, 3)


async def test_a_loop_that_is_gone_does_not_crash_the_thread() -> None:
    """The reader's loop may close first, as when a process is torn down."""
    gate, began = threading.Semaphore(0), threading.Event()
    engine = Engine(lambda: ScriptedModel(gate=gate, began=began))

    async def start() -> None:
        await engine.__aenter__()
        task = asyncio.create_task(collect(engine.stream(ask("?"))))
        await asyncio.to_thread(began.wait)
        task.cancel()

    await asyncio.to_thread(asyncio.run, start())
    gate.release(99)
    engine._inbox.put(Stop())
    await asyncio.to_thread(engine._thread.join)
    assert engine.state == "ready"
