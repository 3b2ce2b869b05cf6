"""A service whose model recites, with invented people and what they said: for pictures of the dashboard.

`python docs/images/demo.py FOLDER [PORT]` serves it, and goes on talking; nothing in it is of anybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from qqmem.engine.types import Model, Row, Vector
from qqmem.memory.scope import View, said_in
from qqmem.memory.types import NewMemory
from qqmem.records import Incoming, Message, Sender
from qqmem.run_folders import write_json
from qqmem.settings import Chat, Memory as MemorySettings, Recall, Server, Settings
from qqmem.settings_train import Train
from qqmem.train.report import page
from tests.api.conftest import Service, Stage, running
from tests.fakes_engine import CharTokenizer, Recital, ScriptedModel, text_of

BY_HEART = "小满的生日是十一月二十九日"
"""What the model writes by itself when it is given a vector."""
PACE = 0.035
"""Seconds that a token takes."""
DIM = 96
MODEL = "Qwen3-VL-4B-Thinking"


@dataclass(frozen=True)
class Line:
    """Somebody says something. reply: what the model writes; without one the bot is not asked. fact: drawn from it."""

    where: str
    who: str
    text: str
    reply: str = ""
    fact: str = ""


_CONTENT = yaml.safe_load((Path(__file__).resolve().parent / "demo.yaml").read_text("utf-8"))
PEOPLE: dict[str, str] = _CONTENT["people"]
GROUPS: dict[str, str] = _CONTENT["groups"]
FACTS, PAST, NOW = (tuple(Line(**line) for line in _CONTENT[part]) for part in ("facts", "past", "now"))


class Demo(ScriptedModel):
    """Recites at a person's pace. Texts that share words have vectors that lie close."""

    fast = True

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        if not self.fast and any(row.want in ("token", "likeliest") for row in rows):
            time.sleep(PACE)
        return super().step(rows)

    def _advance(self, row: Row) -> int | Vector | None:
        if row.want not in ("query", "state"):
            return super()._advance(row)
        super()._advance(row)
        assert isinstance(row.running, Recital)
        return _vector(text_of(row.running.read[-140:]))


def _vector(text: str) -> Vector:
    found = np.full(DIM, 0.01, np.float32)
    for pair in itertools.pairwise(text):
        digest = hashlib.sha256("".join(pair).encode()).digest()
        weight = 3.0 if any("".join(pair) in name for name in PEOPLE.values()) else 1.0
        found[digest[0] % DIM] += weight * (1 if digest[1] & 1 else -1)
    return cast(Vector, found / np.linalg.norm(found))


def script(prompt: str) -> str:
    """What the model writes after a prompt: the reply to the last of the lines that is in it."""
    known = [(prompt.rfind(line.text), line.reply) for line in (*PAST, *NOW) if line.reply]
    at, reply = max(known)
    return reply if at >= 0 else "随便聊聊也好。</think>在呢。"


@asynccontextmanager
async def demo(folder: Path, port: int = 0, token: str | None = None) -> AsyncIterator[tuple[Service, Demo]]:
    """The service with all that was said before, remembered and trained."""
    made: list[Demo] = []

    def load() -> Model:
        made.append(Demo(script, BY_HEART, CharTokenizer(thinks=True), hidden_size=DIM))
        return cast(Model, made[0])

    settings = Settings(
        data=folder,
        model=MODEL,
        token=token,
        chat=Chat(merge_window=0.0, history_messages=2),  # what the prompt shows is not recalled
        memory=MemorySettings(extract_idle=86_400),
        recall=Recall(trigger="model", cooldown=0),
        server=Server(drain_seconds=1, rate_limit=0),
        train=Train(enabled=True),
    )
    async with running(settings, Stage(), load_model=load, listen=socket.create_server(("127.0.0.1", port))) as service:
        await service.state["condition"].engine.ready()
        await _remember(service)
        await _train(service, folder)
        for line in PAST:
            await say(service, line)
        for who in PEOPLE:  # what they say from now on is not remembered, so that what is shown stays as it is
            await say(service, Line(f"private:{who}", who, "/别记"))
        made[0].fast = False
        async with _bridge(service):
            yield service, made[0]


async def say(service: Service, line: Line) -> None:
    """Say a line, and wait for what the bot makes of it."""
    group = line.where.startswith("group:")
    incoming = Incoming(
        line.where,
        Sender(line.who, PEOPLE[line.who]),
        line.text,
        datetime.now(UTC),
        name=GROUPS.get(line.where, PEOPLE[line.who]),
        addressed=bool(line.reply) or not group,
    )
    reply = await service.state["chats"].send(incoming)
    await reply.end()


async def _remember(service: Service) -> None:
    memories, history = service.state["memories"], service.state["history"]
    at = datetime.now(UTC) - timedelta(days=9)
    for number, line in enumerate(FACTS):
        when = at + timedelta(hours=7 * number)
        name = GROUPS.get(line.where, PEOPLE[line.who])
        said = Incoming(line.where, Sender(line.who, PEOPLE[line.who]), line.text, when, name=name)
        message, _ = await history.add(said)
        await memories.add([_fact(message, line.fact)], "extract")
    found = await memories.store.page(View.all(), 100)
    by_text = {memory.text: memory for memory in found}
    await memories.pin(by_text["阿棠对花生过敏，点心里不能放花生"].id, True, "api:admin")
    old = by_text["老周会看云，说层积云不会下大雨"]
    await memories.edit(old.id, "老周会看云，说层积云下不大", "api:admin", "更短")
    decodable = [memory.id for memory in found if memory.id % 3 or memory.text == BY_HEART]
    await memories.store.set_decodable(decodable, "0002")


def _fact(message: Message, text: str) -> NewMemory:
    scope = str(said_in(message.conversation, message.sender.id))
    return NewMemory(
        kind="fact",
        scope=scope,
        text=text,
        valid_from=message.time,
        subject_id=message.sender.id,
        speaker_id=message.sender.id,
        speaker_name=message.sender.name,
        conversation=message.conversation,
        sources=(message.id,),
    )


# ---- training --------------------------------------------------------------------------------------------------------

AFTER = {
    "recall_at_1": 0.984,
    "recall_at_5": 1.0,
    "exact": 0.953,
    "trigger_recall": 1.0,
    "trigger_false": 0.008,
    "trigger_precision": 0.992,
    "perplexity_rise": 0.013,
    "perplexity_rise_beside": -0.091,
    "ranks": [1] * 63 + [2],
}
BEFORE = {
    "recall_at_1": 0.641,
    "recall_at_5": 0.844,
    "exact": 0.031,
    "trigger_recall": 0.641,
    "trigger_false": 0.083,
    "trigger_precision": 0.885,
    "ranks": [1] * 41 + [2] * 6 + [3] * 4 + [5] * 3 + [8] * 5 + [14] * 3 + [33] * 2,
}
BOUNDS = {
    "recall_at_1": 0.8,
    "exact": 0.5,
    "trigger_precision": 0.95,
    "trigger_recall": 0.9,
    "perplexity_rise": 0.03,
}


def points(stage: str, steps: int, until: int) -> list[dict[str, Any]]:
    """Losses that fall."""
    parts = {"stage1": ("query", "ask"), "stage2": ("text", "reply", "chat")}[stage]
    found = []
    for step in range(2, until + 1, 2):
        drop = math.exp(-step / (steps * 0.22))
        wobble = 0.05 * math.sin(step * 1.7) + 0.03 * math.sin(step * 0.61)
        loss = {
            part: round(0.08 + (1.9 - 0.45 * at) * drop * (1 + wobble * (at + 1)) + 0.05 * at, 4)
            for at, part in enumerate(parts)
        }
        loss = {"total": round(sum(loss.values()), 4), **loss}
        found.append(
            {
                "stage": stage,
                "step": step,
                "steps": steps,
                "loss": loss,
                "tokens_s": 1840.0,
                "left_s": (steps - step) * 1.4,
            }
        )
    return found


async def _train(service: Service, folder: Path) -> None:
    """Two runs of before, with their reports and releases."""
    training = service.state["training"]
    runs, releases = training.learn.runs, training.learn.releases
    await asyncio.to_thread(_publish, releases.folder)
    for name, days in (("0001", 7), ("0002", 3)):
        run = await runs.begin("schedule", "demo")
        begun = datetime.now(UTC) - timedelta(days=days, hours=1)
        await asyncio.to_thread(_write_run, folder / "train" / "runs" / str(run.id), run.id)
        figures = {key: value for key, value in AFTER.items() if key != "ranks"}
        await runs.note(
            run.id,
            state="done",
            stage="mark",
            started_at=begun,
            ended_at=begun + timedelta(minutes=21),
            release=name,
            metrics={"gate": figures},
        )
    await asyncio.to_thread((releases.folder / "current").write_text, "0002\n")
    service.state["recollections"].use("0002", "model")
    service.state["hub"].released("0002")


def _publish(folder: Path) -> None:
    for at, name in enumerate(("0001", "0002")):
        made = folder / name
        (made / "adapter").mkdir(parents=True)
        for file in ("recall.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
            (made / file).write_text("{}")
        created = (datetime.now(UTC) - timedelta(days=7 - 4 * at)).isoformat()
        manifest = {
            "release": name,
            "base": {"name": MODEL},
            "spaces": {"value": "demo"},
            "trigger": "model",
            "lanes": {"state": 2.0, "text": 1.0, "lexical": 3.0},
            "decodable": list(range(1, 48 + 14 * at)),
            "memories": 50 + 14 * at,
            "metrics": {"recall_at_1": 0.953 + 0.031 * at},
            "created_at": created,
            "seed": 0,
            "format": 1,
        }
        write_json(made / "manifest.json", manifest)


def _write_run(folder: Path, id: int) -> None:
    folder.mkdir(parents=True)
    told = [*points("stage1", 240, 240), *points("stage2", 360, 360)]
    (folder / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    report = {
        "run": id,
        "model": MODEL,
        "language": "zh",
        "passed": True,
        "reason": "",
        "faults": [],
        "trigger": "model",
        "lanes": {"state": 2.0, "text": 1.0, "lexical": 3.0},
        "before": BEFORE,
        "after": AFTER,
        "memories": 64,
        "ids": list(range(1, 65)),
        "decodable": list(range(1, 62)),
        "thresholds": BOUNDS,
        "stages": {},
    }
    write_json(folder / "report.json", report)
    (folder / "report.html").write_text(page(report, told), "utf-8")


async def begin_run(service: Service, folder: Path) -> None:
    """A run that is in the middle of its second stage."""
    runs, hub = service.state["training"].learn.runs, service.state["hub"]
    run = await runs.note((await runs.begin("api:admin", "demo")).id, stage="stage2")
    told = [*points("stage1", 240, 240), *points("stage2", 360, 214)]
    place = folder / "train" / "runs" / str(run.id)
    place.mkdir(parents=True)
    (place / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    hub.trained(run, told[-1])


@asynccontextmanager
async def _bridge(service: Service) -> AsyncIterator[None]:
    status = {
        "type": "status",
        "napcat": True,
        "online": True,
        "queued": 0,
        "counters": {"sent": 1284, "received": 9310},
    }
    async with connect(f"ws://127.0.0.1:{service.port}/ws/bridge") as bridge:
        hello = {"type": "hello", "protocol": 1, "bridge": "home", "self_id": "2854196310", "last_acked": 0}
        await bridge.send(json.dumps(hello))
        await bridge.recv()
        await bridge.send(json.dumps(status))
        yield


async def _main(folder: Path, port: int) -> None:
    async with demo(folder, port) as (service, _):
        while True:
            for line in NOW:
                await say(service, line)
                await asyncio.sleep(4)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
    asyncio.run(_main(where, int(sys.argv[2]) if len(sys.argv) > 2 else 9999))
