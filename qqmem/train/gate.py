"""The gate: what a release can, measured on the model as it would serve, on cues that no training has shown.

    python -m qqmem.train.gate --run data/train/runs/0001

retrieval: the share of held-out cues whose memory is the first (among the first five) by the state of `<recall>` alone.
exact: the share of memories that greedy decoding from the vector writes to the letter; these become decodable.
trigger: by how many nats the recall that opens a turn by itself is ahead, after held-out questions and after messages
that need none. From these the margin is chosen that a recall needs (gatekeeper.py).
perplexity: of ordinary turns, against the base; also with the vector of a memory before them that has nothing to say.

Reads the run directory and its stage2/, writes gate.json: the measures of what served before (the base, or the starter
from which it began) and after, the ranks of the held-out cues, and the rows of the memories that decode. If the query
was also trained by other recipes, in compared/NAME/, they are measured beside it.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from qqmem.engine.cache import KV, common_prefix
from qqmem.engine.model import Feed, Held, LanguageModel, lead_of, load_model
from qqmem.engine.types import Request, Row, Running, Vector
from qqmem.train.batches import some
from qqmem.train.common import launched, log, writer_of
from qqmem.train.data import Examples
from qqmem.train.records import Run, read_run

_BATCH = 4
"""As many as serve together: so many rows run in the same numbers (int8) as a conversation's."""
_CUES = 400
_ASKED = 200
_QUIET = 120
_CHATS = 40
_CHAT_TOKENS = 256


def main(folder: Path) -> int:
    """Measure base and release, and write gate.json. Raises QqmemError for what a person can mend."""
    run = read_run(folder)
    model = load_model(run.model)
    write = writer_of(run, model.tokenizer, int(run.settings.get("max_tokens", 1024)))
    result: dict[str, Any] = {"memories": len(run.memories), "base": perplexity(model, run, write)}
    model.use_release(run.starter)
    result["before"] = measure(model, run, write)
    result["compared"] = {}
    for other in sorted(folder.glob("compared/*/stage1")):
        model.use_release(other)
        result["compared"][other.parent.name] = retrieval(model, run, write)
    model.use_release(folder / "stage2")
    result["after"] = measure(model, run, write)
    result["before"].pop("decodable")
    result["decodable"] = result["after"].pop("decodable")
    aside = folder / "gate.json.new"
    aside.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", "utf-8")
    aside.replace(folder / "gate.json")
    log.info("gate: %s", {name: value for name, value in result["after"].items() if not isinstance(value, list)})
    return 0


def measure(model: LanguageModel, run: Run, write: Examples) -> dict[str, Any]:
    """All measures of what the model serves now; None for one that this run has nothing to measure by."""
    decodable = exact(model, run, write) if run.decodes else []
    return {
        **retrieval(model, run, write),
        "exact": len(decodable) / len(run.memories) if run.decodes else None,
        **trigger(model, run, write),
        **perplexity(model, run, write),
        "decodable": decodable,
    }


def retrieval(model: LanguageModel, run: Run, write: Examples) -> dict[str, Any]:
    """recall_at_1, recall_at_5 of the state alone, among all memories of the run; ranks: of each cue, from 1."""
    ranks = []
    for batch in _batches(some(write.held_out(), _CUES)):
        running = _started(model, [one.ids for one in batch])
        rows = [Row(held, left, "query") for held, left in running]
        for one, query in zip(batch, model.step(rows), strict=True):
            assert isinstance(query, np.ndarray)
            scores = run.values @ (query / np.linalg.norm(query) - run.centre)
            ranks.append(int((scores > scores[list(one.positives)].max()).sum()) + 1)
        _ended(model, running)
    return {**{f"recall_at_{k}": _share([rank <= k for rank in ranks]) for k in (1, 5)}, "ranks": ranks}


def exact(model: LanguageModel, run: Run, write: Examples) -> list[int]:
    """Rows of the memories that are decoded to the letter, </recall> included, behind a cue of their own."""
    draw = random.Random(run.seed)
    found = []
    for batch in _batches(list(range(len(run.memories)))):
        asked = [write.asking(row, draw) for row in batch]
        wanted = [[*write.tokenizer.encode(run.memories[row].text), write.tokens.close] for row in batch]
        running = _started(model, asked)
        model.step([Row(held, ids, "nothing") for held, ids in running])
        rows = [
            Row(held, [write.tokens.pad], "likeliest", value=run.values[at])
            for (held, _), at in zip(running, batch, strict=True)
        ]
        left = {at: (held, list(text)) for at, (held, _), text in zip(batch, running, wanted, strict=True)}
        while rows:
            got = dict(zip(list(left), model.step(rows), strict=True))
            # Whoever departs is out; whoever has no more to write was right to the end.
            right = {at: (held, text[1:]) for at, (held, text) in left.items() if got[at] == text[0]}
            found += [at for at, (_, text) in right.items() if not text]
            left = {at: (held, text) for at, (held, text) in right.items() if text}
            rows = [Row(held, [got[at]], "likeliest") for at, (held, _) in left.items()]
        _ended(model, running)
    return sorted(found)


def trigger(model: LanguageModel, run: Run, write: Examples) -> dict[str, list[float]]:
    """leads_needed, leads_needless: of recalls after held-out questions, and after messages that need none.

    A run that brings messages of its own for this is measured by them.
    """
    draw = random.Random(run.seed)
    needed = [(row, cue) for row, one in enumerate(run.memories) for cue in one.held_out if cue.kind == "question"]
    asked = [write.unopened(row, cue, draw) for row, cue in needed]
    quiet = [write.quiet(draw) for _ in range(_QUIET if run.negatives else 0)]
    told = [one.ids[: one.keep[0] + 1] for one in quiet]
    if run.evaluation:
        asked, told = (
            [write.alone(text, draw) for text, needs in run.evaluation if needs is wanted] for wanted in (True, False)
        )
    return {
        "leads_needed": leads(model, write, some(asked, _ASKED)),
        "leads_needless": leads(model, write, some(told, _ASKED)),
    }


def leads(model: LanguageModel, write: Examples, prompts: Sequence[Sequence[int]]) -> list[float]:
    """By how many nats the token that opens a turn with a recall is ahead of all others, greedy from there on.

    -inf where no recall follows upon it.
    """
    found: list[float] = []
    for batch in _batches(prompts):
        running = _started(model, batch)
        ahead = _read_on(model, running, write.opening[0])
        left = {n: (held, [write.opening[0]]) for n, (held, _) in enumerate(running)}
        asked = dict.fromkeys(left, False)
        for _ in range(len(write.opening) + 1):
            banned = write.tokens.close, write.tokens.pad
            got = model.step([Row(held, ids, "likeliest", banned) for held, ids in left.values()])
            for n, token in zip(list(left), got, strict=True):
                assert isinstance(token, int)
                asked[n] = token == write.tokens.open
                left[n] = (left[n][0], [token])
                if asked[n] or token in model.end_tokens:
                    del left[n]
            if not left:
                break
        _ended(model, running)
        found += [lead if asked[n] else -math.inf for n, lead in enumerate(ahead)]
    return found


def _read_on(model: LanguageModel, running: Sequence[tuple[Running, list[int]]], token: int) -> list[float]:
    """Have sequences read what is left to read. The lead of a token behind each."""
    feed = [Feed(cast(Held, held).kv, ids) for held, ids in running]
    with torch.inference_mode():
        logits = model.logits(model.forward(feed)).float()
    for one in feed:
        one.kv.commit(one.tokens)
    return [lead_of(token, one) for one in logits]


def perplexity(model: LanguageModel, run: Run, write: Examples) -> dict[str, float | None]:
    """Perplexity of the replies of ordinary turns, and the same behind a memory's vector that has nothing to say.

    The turns are of conversations that no training has shown, if there are any.
    """
    draw = random.Random(run.seed)
    kept = run.held_out_sft or run.sft
    chats = [write.chat(draw, _CHAT_TOKENS, kept) for _ in range(_CHATS if kept else 0)]
    kv = KV()  # of all of them: what two texts begin with is read once
    plain, beside, num = 0.0, 0.0, 0
    for one in chats:
        at = next((n for n, part in enumerate(one.parts) if part), len(one.ids))
        if not 0 < at < len(one.ids):
            continue
        before, reply, row = one.ids[:at], one.ids[at:], draw.randrange(len(run.values))
        _read_up_to(model, kv, before[:-1])
        plain += _loss(model, kv, [before[-1], *reply], len(reply))
        opened, rest = write.beside(before, row)
        _read_up_to(model, kv, opened)
        beside += _loss(model, kv, [write.tokens.pad, *rest, *reply], len(reply), run.values[row])
        num += len(reply)
    return {
        "perplexity": math.exp(plain / num) if num else None,
        "perplexity_beside": math.exp(beside / num) if num else None,
    }


def _read_up_to(model: LanguageModel, kv: KV, ids: Sequence[int]) -> None:
    """Have a sequence read these tokens and no others; not those again that it begins with."""
    kv.cut(common_prefix(kv.tokens, ids))
    if left := ids[kv.length :]:
        with torch.inference_mode():
            model.forward([Feed(kv, left)])
        kv.commit(left)


def _loss(model: LanguageModel, kv: KV, ids: Sequence[int], size: int, value: Vector | None = None) -> float:
    """Sum of -log p of the last `size` tokens, behind what has been read. value: of the first token."""
    with torch.inference_mode():
        logits = model.logits(model.states([Feed(kv, ids, value)])[-size - 1 : -1]).float()
    labels = torch.tensor(ids[-size:], device=logits.device)
    return float(F.cross_entropy(logits, labels, reduction="sum"))


def _started(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[tuple[Running, list[int]]]:
    """Sequences, each with what is left to read of its prompt: the beginning that many share is read once."""
    running = [model.start(Request(tuple(ids), 1)) for ids in prompts]
    return [(held, list(ids[held.length :])) for held, ids in zip(running, prompts, strict=True)]


def _ended(model: LanguageModel, running: Sequence[tuple[Running, object]]) -> None:
    for number, (held, _) in enumerate(running):
        model.release(held, f"gate:{number}")


def _batches(items: Sequence[Any]) -> Iterator[list[Any]]:
    yield from (list(items[n : n + _BATCH]) for n in range(0, len(items), _BATCH))


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


if __name__ == "__main__":
    sys.exit(launched(main, __doc__))
