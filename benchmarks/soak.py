"""Everything at once, for a while: a crowd in 20 chats, a network full of faults, both programs killed now and then.

    python -m benchmarks.soak [--minutes 10] [--messages 2000] [--seed 1] [--bench ../shared/bench/fake_napcat.py]

The bridge and the service are the real programs, each a process of its own, killed with SIGKILL and started again; the
model recites. QQ is the bench. In the end both databases are held against what the bench has seen: every message that a
running bridge was told of is stored, once and in order; every one that was said to the bot is answered by one delivery,
which was sent, or is reported as not sent or as unknown; nothing was sent twice or out of order. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx

CHATS = 20
SELF = "3000001"
FAULT_SECONDS, KILL_SECONDS = 4.0, 40.0
"""On average, between two."""
PATIENCE = 900.0
"""Seconds for all that is under way to come to its end."""


def main() -> None:
    """Run and judge; or, as the program that this starts, serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bench", type=Path, default=Path("../shared/bench/fake_napcat.py"))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # the data folder
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.port))
        return
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.bench, random.Random(options.seed))
        asyncio.run(soak.run(options.messages, options.minutes * 60))
        faults = list(judged(soak))
    for fault in faults[:20]:
        print("FAULT:", fault)
    print("FAILED" if faults else "passed")
    raise SystemExit(bool(faults))


async def serve(data: Path, port: int) -> None:
    """The service, with a model that says the time: what it says is rising, and never the same."""
    from qqmem.app import create_app
    from qqmem.engine.types import Model
    from qqmem.listening import Server
    from qqmem.settings import Chat, Memory, Recall, Server as ServerSettings, Settings
    from tests.fakes_engine import ScriptedModel

    settings = Settings(
        data=data,
        chat=Chat(group_policy="addressed", merge_window=0.2, history_messages=20),
        memory=Memory(encoder="none", extract_idle=10**6, extract_messages=200),
        recall=Recall(trigger="off"),
        server=ServerSettings(port=port, rate_limit=0),
    )

    def recite(prompt: str) -> str:
        return f"{time.time_ns()}\n\n完。" if time.time_ns() % 3 == 0 else str(time.time_ns())

    app = create_app(settings, load_model=lambda: cast(Model, ScriptedModel(recite)))
    with socket.create_server(("127.0.0.1", port)) as listener:
        await Server(app, settings, log_config=None).serve([listener])


@dataclass
class Program:
    """A process that is killed and started again."""

    command: list[str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    kills: int = 0

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(sys.executable, *self.command, stdout=log, stderr=log)

    async def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        await self.process.wait()

    async def again(self, number: int) -> None:
        self.kills += 1
        await self.kill(number)
        await self.start()


@dataclass
class Said:
    """A message that the bench has told of."""

    chat: str
    message_id: str
    to_bot: bool


@dataclass
class Soak:
    """One run. said: all messages, in order."""

    folder: Path
    bench: Path
    chance: random.Random
    said: list[Said] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    napcat: Any = None
    module: Any = None

    async def run(self, messages: int, seconds: float) -> None:
        self.module = loaded(self.bench)
        port = free_port()
        serving = ["-m", "benchmarks.soak", "--serve", str(self.folder / "service"), "--port", str(port)]
        self.service = Program(serving, self.folder / "service.log")
        self.bridge = Program(["-m", "qqmem_bridge", "run", "-c", str(self.folder / "b.yaml")], self.folder / "b.log")
        async with self.module.FakeNapCat(token="t", self_id=int(SELF), heartbeat=5) as self.napcat:
            self.write_settings(port)
            await self.service.start()
            await self.bridge.start()
            await asyncio.wait_for(self.joined(port), PATIENCE)
            work = [
                asyncio.create_task(self.trouble(FAULT_SECONDS)),
                asyncio.create_task(self.deaths(KILL_SECONDS, port)),
            ]
            try:
                await self.talk(messages, seconds)
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
            self.napcat.clear_faults()
            await self.napcat.go_up()
            await self.settled(port)
            for program in (self.bridge, self.service):
                await program.kill(signal.SIGTERM)

    def write_settings(self, port: int) -> None:
        groups, users = [str(40000 + n) for n in range(CHATS)], [str(30000 + n) for n in range(CHATS)]
        settings = {
            "service": f"ws://127.0.0.1:{port}/ws/bridge",
            "data": str(self.folder / "bridge"),
            "napcat": {"url": self.napcat.ws_uri, "token": "t"},
            "allow": {"groups": groups, "users": users},
            "pace": {"gap": 0.05, "jitter": 0.1, "per_minute": 6000, "burst": 1000},
            "merge": {"quiet": 0.3, "longest": 2, "most": 10},
            "rounds": 0,
            "health": {"port": 0},
        }
        (self.folder / "b.yaml").write_text(json.dumps(settings), "utf-8")

    async def talk(self, messages: int, seconds: float) -> None:
        """Half of the chats are groups, where two of three messages are to the bot; some come in bursts."""
        begun, chat = time.monotonic(), 0
        for n in range(messages):
            await asyncio.sleep(max(0.0, begun + seconds * n / messages - time.monotonic()))
            if n % 200 == 199:
                print(
                    f"  {n + 1} messages, {len(self.napcat.sent)} sent, {sum(self.faults.values())} faults", flush=True
                )
            chat = self.chance.randrange(CHATS) if n % 10 else chat
            await self.say(chat, f"m{n}")

    async def say(self, chat: int, text: str) -> None:
        """QQ does not repeat what nobody was there to hear: what is said then is none of this."""
        while self.napcat.stalled or not self.napcat.connected:  # noqa: ASYNC110  the end of a stall is told to nobody
            await asyncio.sleep(0.02)
        copies = self.chance.choice([1, 1, 1, 2])
        if chat % 2:
            mid = await self.napcat.private_message(30000 + chat, text, copies=copies)
            self.said.append(Said(f"private:{30000 + chat}", str(mid), True))
            return
        to_bot = self.chance.random() < 0.67
        content = [self.module.at(SELF), self.module.text(text)] if to_bot else text
        user = 50000 + self.chance.randrange(3)
        mid = await self.napcat.group_message(40000 + chat, user, content, copies=copies)
        self.said.append(Said(f"group:{40000 + chat}", str(mid), to_bot))

    async def trouble(self, every: float) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / every))
            action = self.chance.choice(["send_private_msg", "send_group_msg"])
            kind = self.chance.choice(
                ["lose", "hang", "timeout_sent", "timeout", "rich_media", "drop", "down", "stall"]
            )
            self.faults[kind] += 1
            match kind:
                case "lose":
                    self.napcat.lose_response(action)
                case "hang":
                    self.napcat.hang(action)
                case "drop":
                    await self.napcat.drop(self.chance.choice(["abort", "close"]))
                case "down":
                    await self.napcat.down(self.chance.uniform(0.1, 3))
                case "stall":
                    self.napcat.stall()
                    await asyncio.sleep(self.chance.uniform(0.1, 8))
                    self.napcat.stall(False)
                case like:
                    self.napcat.fail(action, like=like)

    async def deaths(self, every: float, port: int) -> None:
        """None before the last one has come to life again, however slow the machine is."""
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / every))
            await self.joined(port)
            number = self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            await self.chance.choice([self.bridge, self.service]).again(number)

    async def joined(self, port: int) -> None:
        """Until the service has a bridge, and the bridge has QQ."""
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, KeyError):
                    health = (await client.get(f"http://127.0.0.1:{port}/health")).json()
                    if health["bridges"]["connected"] and self.napcat.connected:
                        return
                await asyncio.sleep(0.5)

    async def settled(self, port: int) -> None:
        """Until nothing waits on either side any more; what is too old is let go of after 10 minutes."""
        end, calm = time.monotonic() + PATIENCE, 0
        async with httpx.AsyncClient(trust_env=False) as client:
            while time.monotonic() < end and calm < 5:
                await asyncio.sleep(1)
                with contextlib.suppress(httpx.HTTPError, KeyError):
                    health = (await client.get(f"http://127.0.0.1:{port}/health")).json()["bridges"]
                    owed = rows(self.folder / "service/qqmem.db", "SELECT count(*) FROM message WHERE owed")[0][0]
                    left = rows(self.folder / "bridge/bridge.db", "SELECT count(*) FROM inbox")[0][0]
                    calm = calm + 1 if not (health["undelivered"] or owed or left) and health["connected"] else 0


# ---- what has become of it -------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What both databases and the bench know in the end.

    heard: what the bridge has been told of live, and found to be said to the bot. seen: all that it knows.
    turns: which answered a message, in the order in which messages were stored. replies: by turn, as state, text, chat.
    sent: the first lines that the bench has received, by chat.
    """

    seen: set[tuple[str, str]]
    heard: set[tuple[str, str]]
    turns: dict[tuple[str, str], int]
    num_stored: int
    replies: dict[int, tuple[str, str, str]]
    sent: dict[str, list[str]]


def outcome(soak: Soak) -> Outcome:
    """Read it."""
    service, bridge = soak.folder / "service/qqmem.db", soak.folder / "bridge/bridge.db"
    known = rows(bridge, "SELECT chat, message_id, addressed FROM seen WHERE user_id != ?", SELF)
    people = rows(service, "SELECT conversation_id, message_id, turn_id FROM message WHERE role = 'user' ORDER BY id")
    told = "SELECT d.turn_id, d.state, m.text, d.conversation_id FROM delivery d JOIN message m ON m.id = d.message"
    sent: dict[str, list[str]] = defaultdict(list)
    for one in soak.napcat.sent:
        if one.plain_text.strip().isdigit():
            sent[f"{one.kind}:{one.target}"].append(one.plain_text.strip())
    return Outcome(
        seen={(chat, message_id) for chat, message_id, _ in known},
        heard={(chat, message_id) for chat, message_id, addressed in known if addressed},
        turns={(chat, message_id): turn for chat, message_id, turn in people},
        num_stored=len(people),
        replies={turn: (state, text.partition("\n")[0], chat) for turn, state, text, chat in rows(service, told)},
        sent=sent,
    )


def judged(soak: Soak) -> Iterator[str]:
    """Print the figures, and give what is not as it must be, in words."""
    found = outcome(soak)
    to_bot = [(one.chat, one.message_id) for one in soak.said if one.to_bot]
    states = {key: found.replies.get(found.turns.get(key, 0), ("nothing", "", ""))[0] for key in to_bot}
    lost = [key for key in to_bot if key not in found.seen]
    late = [key for key in to_bot if key in found.seen - found.heard]
    answered = Counter(state for key, state in states.items() if key in found.heard)
    print(
        f"messages: {len(soak.said)}, stored {found.num_stored}; said to the bot: {len(to_bot)}, of them lost before a "
        f"bridge had them {len(lost)}, caught up as context {len(late)}, to be answered {sum(answered.values())}"
    )
    print(f"answered by a reply that was: {dict(answered)}")
    kinds = Counter(state for state, _, _ in found.replies.values())
    print(f"replies: {len(found.replies)}, {dict(kinds)}; messages that the bench received: {len(soak.napcat.sent)}")
    kills = f"bridge {soak.bridge.kills}, service {soak.service.kills}"
    print(f"faults: {dict(soak.faults)}; kills: {kills}; connections to QQ: {soak.napcat.connections_total}")
    yield from stored_badly(found, to_bot)
    for key, state in states.items():
        if key in found.heard and state not in ("sent", "failed", "unknown"):
            yield f"{key} was said to the bot, and became {state}"
    yield from sent_badly(found)
    logs = "".join((soak.folder / name).read_text("utf-8") for name in ("b.log", "service.log"))
    if "Traceback" in logs:
        print(logs[logs.index("Traceback") :][:3000])
        yield "a program has logged a traceback"


def stored_badly(found: Outcome, to_bot: list[tuple[str, str]]) -> Iterator[str]:
    """What was lost, doubled, or put out of order on its way in."""
    if found.num_stored != len(found.turns):
        yield "a message is stored twice"
    for missing in sorted(found.seen - found.turns.keys()):
        yield f"{missing} came to the bridge, and is not stored"
    places = {key: n for n, key in enumerate(found.turns)}
    order: dict[str, list[int]] = defaultdict(list)
    for key in to_bot:
        if key in found.heard and key in places:
            order[key[0]].append(places[key])
    yield from (f"{chat}: stored out of order" for chat, at in order.items() if at != sorted(at))


def sent_badly(found: Outcome) -> Iterator[str]:
    """What was doubled, put out of order, or told wrongly on its way out."""
    count = Counter(text for texts in found.sent.values() for text in texts)
    for turn, (state, text, chat) in found.replies.items():
        fitting = {"sent": (1,), "failed": (0, 1), "unknown": (0, 1)}.get(state, (0,))
        if count[text] not in fitting:
            yield f"{chat}: the reply of turn {turn} is told as {state}, and was sent {count[text]} times"
    for chat, texts in found.sent.items():
        if texts != sorted(texts, key=int):
            yield f"{chat}: replies were sent out of order"


def rows(database: Path, query: str, *values: str) -> list[Any]:
    """What a query gives."""
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
        return connection.execute(query, values).fetchall()


def loaded(path: Path) -> Any:
    """The bench as a module."""
    spec = importlib.util.spec_from_file_location("fake_napcat", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"The bench is not at {path}; say where it is with --bench.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_napcat"] = module
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
