"""What watchers cost the engine, and how late they are, in one run.

    python -m benchmarks.live [--rounds 3] [--tokens 128] [--watchers 0 50 200] [--scripted]

The service runs as it serves, with four conversations that write at once; watchers of /ws/live sit in another process,
on real sockets. Five of them read every frame and note when it came; the others only take what is sent, as the machines
of those who watch are not this one. Rounds alternate. Printed are medians: tokens a second of the engine, that against
the same round without watchers, and how long after a token was told to the hub it was at a watcher (of a joined frame
the first token and the later ones alike). --scripted takes a model that recites, to try the benchmark itself.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from websockets.asyncio.client import connect

from benchmarks.engine import MODEL, cpu_name
from qqmem.app import create_app
from qqmem.chat import Event, Token
from qqmem.engine import bench, catalog
from qqmem.engine.model import load_model
from qqmem.engine.types import Model
from qqmem.listening import Server
from qqmem.records import Incoming, Sender
from qqmem.settings import Chat, Generation, Memory, Recall, Settings
from tests.fakes_engine import ScriptedModel

READERS = 5
SETTLE_SECONDS = 1.0
"""For watchers to get their snapshots before anything is measured, and the last frames after it."""


def main() -> None:
    """Measure and print; or, as the program that this starts, watch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--watchers", type=int, nargs="+", default=[0, 50, 200])
    parser.add_argument("--scripted", action="store_true")
    parser.add_argument("--watch", type=int, help=argparse.SUPPRESS)  # the port; then watchers is how many
    options = parser.parse_args()
    if options.watch:
        asyncio.run(watch(options.watch, options.watchers[0]))
        return
    name = "a scripted model" if options.scripted else MODEL
    print(f"{date.today()}, {cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {name}")
    load = partial(recite, options.tokens) if options.scripted else partial(load_model, pulled())
    asyncio.run(compare(load, options.rounds, options.tokens, [n for n in options.watchers if n]))


def pulled() -> Path:
    """Where the embedded model lies."""
    return catalog.pull(MODEL, lambda *_: None)


# ---- the service ---------------------------------------------------------------------------------------------------


class Reciting(ScriptedModel):
    """Each step computes for some 20 ms, as a small model does."""

    def step(self, rows: Any) -> Any:
        over, square = time.perf_counter() + 0.02, torch.ones(256, 256)
        while time.perf_counter() < over:
            torch.mm(square, square)
        return super().step(rows)


def recite(tokens: int) -> Model:
    """A model that writes so many tokens, and one more."""
    return cast(Model, Reciting(lambda _: "字" * (tokens + 1)))


@dataclass
class Round:
    """told: when each token was told to the hub, by turn and n. shown: (reader, turn, n, when) of each token frame.

    rate: tokens a second. seconds: of CPU time that the watchers took.
    """

    told: dict[tuple[int, int], float] = field(default_factory=dict)
    shown: list[tuple[int, int, int, float]] = field(default_factory=list)
    rate: float = 0.0
    seconds: float = 0.0

    def lags(self) -> Iterator[float]:
        """Seconds of each token at each reader: it is there with the first frame that has its n, or a later one."""
        last: dict[tuple[int, int], int] = {}
        for reader, turn, n, at in self.shown:
            for one in range(last.get((reader, turn), 0) + 1, n + 1):
                if (turn, one) in self.told:
                    yield at - self.told[turn, one]
            last[reader, turn] = n


async def compare(load: Callable[[], Model], rounds: int, tokens: int, crowds: Sequence[int]) -> None:
    """One service for all rounds; each has conversations of its own, so that no prompt is in the cache."""
    found: dict[int, list[Round]] = {n: [] for n in (0, *crowds)}
    async with serving(load, tokens) as (server, port):
        await one(server, port, 0)
        for _ in range(rounds):
            for n in found:
                found[n].append(await one(server, port, n))
    alone = [each.rate for each in found[0]]
    print(f"  {'no watchers':16} {statistics.median(alone):8.1f} tokens/s")
    for n in crowds:
        rates = [each.rate for each in found[n]]
        slower = statistics.median(1 - rate / base for rate, base in zip(rates, alone, strict=True))
        lags = sorted(lag for each in found[n] for lag in each.lags())
        if not lags:
            print(f"  {n} watchers: no frame has come; take more tokens")
            continue
        late, cpu = lags[int(len(lags) * 0.99)], statistics.median(each.seconds for each in found[n])
        promised = "   (promised 5 %, 150 ms)" if n == 50 else ""
        print(
            f"  {f'{n} watchers':16} {statistics.median(rates):8.1f} tokens/s, {slower * 100:5.1f} % slower; "
            f"lag {statistics.median(lags) * 1e3:.0f} ms, p99 {late * 1e3:.0f} ms of {len(lags)} tokens; "
            f"the watchers' own CPU {cpu:.1f} s{promised}"
        )


@asynccontextmanager
async def serving(load: Callable[[], Model], tokens: int) -> AsyncIterator[tuple[Server, int]]:
    """The service as it serves, without recalls and memories, on some free port."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listen:
        settings = Settings(
            data=Path(folder),
            chat=Chat(merge_window=0.0),
            generation=Generation(max_new_tokens=tokens, temperature=0.0),
            memory=Memory(encoder="none"),
            recall=Recall(trigger="off"),
        )
        server = Server(create_app(settings, load_model=load), settings, log_config=None)
        listen.bind(("127.0.0.1", 0))
        running = asyncio.create_task(server.serve([listen]))
        while not server.started:
            await asyncio.sleep(0.05)
            if running.done():
                await running
        await server.state["condition"].engine.ready()
        try:
            yield server, listen.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def one(server: Server, port: int, watchers: int) -> Round:
    """Four conversations write; so many watch."""
    found, hub = Round(), server.state["hub"]
    publish = hub.publish

    def tell(event: Event) -> None:
        if isinstance(event, Token):
            found.told.setdefault((event.turn, event.n), time.monotonic())
        publish(event)

    hub.publish = tell  # type: ignore[method-assign]
    try:
        async with watched(port, watchers, found):
            await asyncio.gather(*(talk(server, i, topic) for i, topic in enumerate(bench.TOPICS)))
    finally:
        hub.publish = publish  # type: ignore[method-assign]
    by_turn: dict[int, list[float]] = {}
    for (turn, _), at in found.told.items():
        by_turn.setdefault(turn, []).append(at)
    start, end = max(times[0] for times in by_turn.values()), min(times[-1] for times in by_turn.values())
    # The n of a token tells of those without text, too.
    inside = [(turn, n) for (turn, n), at in found.told.items() if start < at <= end]
    ranges = [[n for turn, n in inside if turn == one] for one in by_turn]
    found.rate = sum(max(ns) - min(ns) + 1 for ns in ranges if ns) / (end - start)
    return found


async def talk(server: Server, i: int, topic: str) -> None:
    """A conversation of its own, to the end of its reply."""
    sender = Sender(f"{time.monotonic_ns()}{i}", "")
    text = f"请写一篇五百字的作文，题目是《{topic}》，写得详细一点。"
    await (await server.state["chats"].send(Incoming(f"private:{sender.id}", sender, text, datetime.now(UTC)))).end()


# ---- the watchers --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def watched(port: int, watchers: int, found: Round) -> AsyncIterator[None]:
    """Meanwhile, another process watches; what it has seen is in `found` afterwards."""
    if not watchers:
        yield
        return
    command = (sys.executable, "-m", "benchmarks.live", "--watch", str(port), "--watchers", str(watchers))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**28
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n", "the watchers have failed"
        await asyncio.sleep(SETTLE_SECONDS)
        yield
        await asyncio.sleep(SETTLE_SECONDS)
        process.stdin.close()
        said = json.loads(await process.stdout.readline())
        found.shown, found.seconds = [tuple(each) for each in said["shown"]], said["seconds"]
    finally:
        process.stdin.close()
        await process.wait()


async def watch(port: int, watchers: int) -> None:
    """The other process: until stdin ends, then tells what it has seen."""
    shown: list[tuple[int, int, int, float]] = []
    reading = [asyncio.create_task(read(port, i, shown)) for i in range(min(READERS, watchers))]
    quiet = [await open_quiet(port) for _ in range(watchers - len(reading))]
    taking = [asyncio.create_task(take(reader)) for reader, _ in quiet]
    before = cpu_seconds()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"shown": shown, "seconds": cpu_seconds() - before}), flush=True)
    for task in (*reading, *taking):
        task.cancel()
    for _, writer in quiet:
        writer.close()


async def read(port: int, number: int, shown: list[tuple[int, int, int, float]]) -> None:
    """Read every frame."""
    async with connect(f"ws://127.0.0.1:{port}/ws/live", compression=None) as connection:
        async for batch in connection:
            at = time.monotonic()
            for frame in json.loads(batch):
                if frame["type"] == "token":
                    shown.append((number, frame["turn"], frame["n"], at))


async def open_quiet(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A watcher that has opened its socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    head = f"GET /ws/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    status = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in status, status
    return reader, writer


async def take(reader: asyncio.StreamReader) -> None:
    """Whatever comes. It answers no pings, so the service would close it after some 40 s; a round is shorter."""
    while await reader.read(2**16):
        pass


def cpu_seconds() -> float:
    """Of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
