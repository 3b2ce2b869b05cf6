"""The starter: what a model has learned from people who do not exist, so that it recalls from the first day.

A run like any other (learn.py), but for where its memories come from: train/starter.py makes them up. What comes out is
a release without memories of its own, from which every training of a bot begins.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from qqmem import practice
from qqmem.asker import CHAT_TOKENS, asker
from qqmem.engine.prompt import Prompts
from qqmem.engine.types import Model
from qqmem.engine.worker import Engine
from qqmem.gatekeeper import Gatekeeper
from qqmem.hidden import HiddenEncoder
from qqmem.memory.embed import encoded, unit
from qqmem.memory.search import DAY_ZERO, calibrate, calibration_texts
from qqmem.run_folders import is_done, read_json, write_json, write_report
from qqmem.run_parts import Report, Voice
from qqmem.serving import digest
from qqmem.settings import Settings
from qqmem.train.releases import Manifest
from qqmem.train.starter import write_starter
from qqmem.trainer import Trainer, accelerate

NAME = "starter"
"""What it is called among the releases."""

Tell = Callable[[str, Mapping[str, Any]], None]
"""Told what it is at, and how far."""

_CHATS = 160
"""Messages of the generator that the base answers as itself, besides those of every training."""
_HELD_OUT_KINDS = 20
"""Kinds of fact, and half as many of talk, that are in evaluation.jsonl only."""
_SHARED = {"epochs": 1, "batch": 16, "text_weight": 0.3, "query_weight": 0.5, "readings": 0, "reading_rank": 0}
_PHASES: Sequence[tuple[int, Mapping[str, Any]]] = (
    (1, {**_SHARED, "lr": 2e-4, "chat": 0.2, "foreign": 0.2, "quiet": 1.0}),
    (4, {**_SHARED, "lr": 1e-4, "chat": 0.15, "foreign": 0.25, "quiet": 3.0, "quiet_weight": 2.0}),
    (4, {**_SHARED, "lr": 1e-4, "chat": 0.15, "foreign": 0.25, "quiet": 4.0, "quiet_weight": 3.0}),
    (3, {**_SHARED, "lr": 1e-4, "chat": 0.15, "foreign": 0.25, "quiet": 4.0, "quiet_weight": 2.0}),
)
"""Of each the share of the facts, one in so many, and the settings of stage 2.

Every fact is new, so one pass is enough, and the query is learned with the rest. The first phase learns when to ask,
and asks too often; the others learn when not to.
"""


async def make(
    settings: Settings, load: Callable[[], Model], model: Path, run: Path, target: Path, facts: int, tell: Tell
) -> Report:
    """Train a starter for the model in the folder `model`, and write it to `target` if it passes the gate.

    run: the folder of the run; one that was broken off is gone on with. facts: how many are told in it.
    Raises TrainingError, ModelError, EngineError, InvalidRequest, OSError.
    """
    begin: Path | None = None
    folder = run
    for number, (share, recipe) in enumerate(_PHASES, 1):
        folder = run / str(number)
        if not (folder / "run.json").exists():
            await _export(settings, load, model, folder, number, max(1, facts // share), recipe, begin, tell)
        if not is_done(folder, "stage2"):
            command = accelerate(settings.train.launch)("stage2", folder)
            limit = settings.train.hang_limit
            await Trainer(command, folder, uuid.uuid4().hex, partial(tell, "stage2"), _nothing, limit).run()
        begin = folder
    content = read_json(folder / "run.json")
    tell("gate", {})
    report = await Gatekeeper(settings.train.gate)(folder)
    write_report(folder, report)
    if report.passed:
        await asyncio.to_thread(publish, folder, target, content, model, report)
    return report


async def _export(
    settings: Settings,
    load: Callable[[], Model],
    model: Path,
    run: Path,
    part: int,
    facts: int,
    recipe: Mapping[str, Any],
    begin: Path | None,
    tell: Tell,
) -> None:
    """Write what the trainer reads, run.json last. part: of the texts. recipe: of stage 2. begin: the phase before."""
    chat, engine = settings.chat, settings.engine
    prompts = await asyncio.to_thread(Prompts.load, chat.language, chat.prompts, chat.prompt_order)
    voice = await asyncio.to_thread(Voice.load, prompts, chat.names[0], chat.language)
    tell("export", {})
    seed = settings.train.seed
    await asyncio.to_thread(write_starter, run, seed=seed, facts=facts, hold_out=_HELD_OUT_KINDS, part=part)
    async with Engine(load, max_batch=engine.max_batch, prefill_chunk=engine.prefill_chunk) as running:
        space = await _values(running, prompts, settings.model, run, tell)
        if begin is None:
            await _chats(running, voice, settings, run, tell)
        else:
            for name in ("sft.jsonl", "heldout.jsonl"):
                shutil.copy(begin / name, run / name)
    content = {
        "id": 0,
        "seed": seed,
        "model": str(model),
        "model_name": settings.model,
        "language": chat.language,
        "prompts": dict(prompts.parts),
        "prompt_order": list(prompts.order),
        "bot_name": chat.names[0],
        "space": space,
        "decodes": False,
        "settings": {**settings.train.model_dump(mode="json"), "stage2": recipe},
        "starter": str((begin / "stage2").absolute()) if begin else "",
    }
    write_json(run / "run.json", content)


async def _values(engine: Engine, prompts: Prompts, model: str, run: Path, tell: Tell) -> str:
    """Write values.npy and centre.npy. Returns the id of their space."""
    tokenizer = (await engine.ready()).tokenizer
    dim = await engine.call(lambda language_model: language_model.hidden_size)
    encoder = HiddenEncoder(engine, tokenizer, prompts, model, dim)
    space = await calibrate(encoder, calibration_texts(), centred=True)
    texts = [json.loads(line)["text"] for line in (run / "memories.jsonl").read_text("utf-8").splitlines()]
    states = []
    for start in range(0, len(texts), 64):
        tell("values", {"step": start, "steps": len(texts)})
        states.append(await encoded(encoder, texts[start : start + 64], "keys"))
    np.save(run / "values.npy", unit(np.concatenate(states) - space.centre).astype(np.float32))
    np.save(run / "centre.npy", space.centre.astype(np.float32))
    return space.id


async def _chats(engine: Engine, voice: Voice, settings: Settings, run: Path, tell: Tell) -> None:
    """Write sft.jsonl and heldout.jsonl: what the base answers to some of the messages that need no memory.

    The generator's own conversations are trained on too: what people write is more varied.
    """
    quiet = [json.loads(line) for line in (run / "negatives.jsonl").read_text("utf-8").splitlines()]
    talk = [one["text"] for one in quiet if "before" not in one]
    written = [practice.parse(line) for line in (run / "sft.jsonl").read_bytes().splitlines()]
    draw = random.Random(settings.train.seed)
    openings = [*voice.words["practice"], *draw.sample(talk, min(_CHATS, len(talk)))]
    system = voice.prompts.phrase("persona", bot_name=voice.bot_name)
    ask = asker(engine, settings.generation, base=True, most=CHAT_TOKENS)
    words = {**voice.words, "practice": openings}
    writer = practice.Writer(ask, words, system, run, settings.model, settings.engine.max_batch)
    own = await writer.chats(lambda done, of: tell("practice", {"step": done, "steps": of}))
    kept, held_out = practice.split(own, settings.train.seed)
    for name, chats in (("sft", [*kept, *written]), ("heldout", held_out)):
        lines = (json.dumps({"messages": chat}, ensure_ascii=False) + "\n" for chat in chats)
        (run / f"{name}.jsonl").write_text("".join(lines), "utf-8")


def publish(run: Path, target: Path, content: Mapping[str, Any], model: Path, report: Report) -> None:
    """Write the release, half as large: bfloat16 is what it is served in."""
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(run / "stage2" / "adapter", aside / "adapter")
    for name in ("adapter/adapter_model.safetensors", "recall.safetensors"):
        weights = load_file(run / "stage2" / name)
        # The three rows are trained in float32, and may differ from their neighbours by less than bfloat16 shows.
        halves = {key: one if key == "rows" else one.to(torch.bfloat16) for key, one in weights.items()}
        save_file(halves, aside / name)
    manifest = Manifest(
        release=NAME,
        base={"name": content["model_name"], "sha256": digest(model)},
        spaces={"value": content["space"]},
        trigger="both",  # its gate asks at the beginning of a talk; further on it is slower to ask
        margin=report.margin,
        lanes={
            str(lane): weight for lane, weight in DAY_ZERO.items()
        },  # memories that it was not trained on are found by their words and their text
        decodable=(),
        memories=0,
        metrics=report.metrics,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=content["seed"],
    )
    write_json(aside / "manifest.json", asdict(manifest))
    write_json(aside / "report.json", report.details)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(target)


async def _nothing(pid: int, born: str) -> None:
    pass
