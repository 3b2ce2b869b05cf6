"""`qqmem bench`: how fast this machine writes, reads and is interrupted, through the engine as it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from qqmem.engine.types import Finish, Request, Tokenizer
from qqmem.engine.worker import Engine

TOPICS = ("一座海边的小城", "一次漫长的旅行", "外婆的菜园", "城市里的夜班司机")
"""What the benchmark asks for stories of, one for each conversation."""

HISTORY = 2000
"""Tokens of history before the next turn."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class _Run:
    """Arrival times of the tokens of one text, and its end. Seconds."""

    arrivals: tuple[float, ...]
    finish: Finish


async def measure(engine: Engine, *, tokens: int = 128, interrupts: int = 40) -> AsyncGenerator[Figure, None]:
    """Yield figures as they are measured. tokens: how long the texts are. interrupts: how many are timed."""
    tokenizer = (await engine.ready()).tokenizer
    await _write(engine, prompt(tokenizer, TOPICS[0]), 8)  # the first steps allocate and warm caches
    one = await decode_rate(engine, tokenizer, 1, tokens)
    yield Figure("decode, one conversation", one, "tokens/s")
    four = await decode_rate(engine, tokenizer, 4, tokens)
    yield Figure("decode, four at once, sum", four, "tokens/s")
    yield Figure("decode, four against one", four / one, "x")
    cold, warm = await first_tokens(engine, tokenizer)
    yield Figure("first token, cold start, 2000 tokens of history", cold * 1e3, "ms")
    yield Figure("first token, next turn of it", warm * 1e3, "ms")
    yield Figure("next turn against cold start", warm / cold * 100, "%")
    yield Figure("prefill", HISTORY / cold, "tokens/s")
    for what, reading in (("writing", False), ("reading a prompt", True)):
        waits = sorted([await _interrupt(engine, tokenizer, reading, i) for i in range(interrupts)])
        yield Figure(f"interrupted while {what}: free after, median", waits[len(waits) // 2] * 1e3, "ms")
        yield Figure(f"interrupted while {what}: free after, p99", waits[int(len(waits) * 0.99)] * 1e3, "ms")


def prompt(tokenizer: Tokenizer, topic: str) -> tuple[int, ...]:
    """A request that no model answers briefly."""
    return tuple(tokenizer.render([("user", f"写一个关于{topic}的长篇故事，分很多章，每一章都写得很详细。")]))


def history_prompt(tokenizer: Tokenizer, marker: str, turns: tuple[str, ...] = ()) -> tuple[int, ...]:
    """A conversation of about HISTORY tokens, then more turns. marker: tells it from others at its first token."""
    lines, size = [("system", marker)], 0
    while size < HISTORY:
        line = f"第{len(lines)}天，我们去了山里，路上说起小时候的事，回来时下了雨。"
        lines.append(("user" if len(lines) % 2 else "assistant", line))
        size += len(tokenizer.encode(line)) + 5
    lines += [("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(("后来呢？", *turns))]
    return tuple(tokenizer.render(lines))


async def decode_rate(engine: Engine, tokenizer: Tokenizer, n: int, tokens: int) -> float:
    """Tokens a second in sum, over the time in which all `n` were writing."""
    runs = await asyncio.gather(*(_write(engine, prompt(tokenizer, topic), tokens) for topic in TOPICS[:n]))
    start = max(run.arrivals[0] for run in runs)
    end = min(run.arrivals[-1] for run in runs)
    return sum(start < at <= end for run in runs for at in run.arrivals) / (end - start)


async def first_tokens(engine: Engine, tokenizer: Tokenizer, rounds: int = 3) -> tuple[float, float]:
    """Seconds to the first token of a cold start and of the next turn, each the best of some rounds."""
    cold, warm = [], []
    for i in range(rounds):
        name = f"{time.monotonic_ns()}"
        first = await _write(engine, history_prompt(tokenizer, name), 8, name)
        cold.append(first.finish.timing.first_token)
        turns = ("后来天晴了，我们就回家了。", "那天晚上你吃了什么？还记得吗？")
        again = await _write(engine, history_prompt(tokenizer, name, turns), 8, name)
        warm.append(again.finish.timing.first_token)
        assert again.finish.usage.cached > HISTORY * 0.9, f"round {i} reused {again.finish.usage.cached} tokens only"
    return min(cold), min(warm)


async def _write(engine: Engine, tokens: tuple[int, ...], n: int, conversation: str | None = None) -> _Run:
    arrivals: list[float] = []
    async with aclosing(engine.stream(Request(tokens, n, conversation=conversation))) as items:
        async for item in items:
            if isinstance(item, Finish):
                return _Run(tuple(arrivals), item)
            arrivals.append(time.perf_counter())
    raise AssertionError("a stream ends with its Finish")


async def _interrupt(engine: Engine, tokenizer: Tokenizer, reading: bool, i: int) -> float:
    """Seconds from leaving a stream to the worker being free for something else."""
    tokens = history_prompt(tokenizer, f"{time.monotonic_ns()}") if reading else prompt(tokenizer, TOPICS[i % 4])

    async def leave_after(seconds: float) -> float:
        task = asyncio.create_task(_write(engine, tokens, 1000))
        await asyncio.sleep(seconds)
        start = time.perf_counter()
        task.cancel()
        await engine.call(lambda _: None)
        return time.perf_counter() - start

    return await leave_after(0.3 + 0.037 * (i % 11))
