"""Whether a turn opens with a recall where a memory is needed, and only there (cases.py).

Of messages that need a memory, the share with a recall; of those that do not, the same (false recalls), each kind by
itself, since style alone can tell kinds apart. Precision, recall and F1 where both are of one style, and over all;
these depend on how many there are of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qqmem.engine.prompt import PromptBuilder, Prompts, Said, unasked
from qqmem.engine.types import Ask, Model as Language, Opening, Piece, Recalling, Request, Sampling
from qqmem.engine.worker import Engine
from qqmem.evals.cases import NEEDS, Case
from qqmem.evals.data import Turn
from qqmem.evals.figures import Draws, Figure
from qqmem.evals.retrieval import fresh_memories
from qqmem.memory.memories import Memories
from qqmem.memory.pieces import words_of
from qqmem.memory.scope import View
from qqmem.memory.types import Encoder, NewMemory, Query
from qqmem.recollection import CLEAR
from qqmem.settings import Settings
from qqmem.train.releases import read_manifest
from qqmem.turn import Writer

Trigger = Callable[[Case], Awaitable[bool]]
"""Whether the turn that answers this message opens with a recall."""

TRIGGERS = ("score", "model", "both")
"""As of the setting recall.trigger."""

_GROUPS: Mapping[str, Sequence[str]] = {
    "madial": ("madial", "madial-other"),
    "told": ("told", "telling"),
    "all": tuple(NEEDS),
}
_AT_ONCE = 4
_DEPTH = 20  # as deep as a turn searches
_NAME, _QQ = "小林", "10001"


class Score:
    """Trigger `score`: a memory fits the message, or that behind what the bot said before it.

    beside_model: as in `both`, where the memory has to fit clearly as long as nothing was said.
    """

    def __init__(self, memories: Memories, *, beside_model: bool = False) -> None:
        self._memories = memories
        self._beside_model = beside_model

    @classmethod
    @asynccontextmanager
    async def open(
        cls, memories: Sequence[NewMemory], encoder: Encoder | None, *, beside_model: bool = False
    ) -> AsyncGenerator[Self]:
        """One that knows these memories."""
        async with fresh_memories(encoder) as known:
            await known.add(memories, "eval")
            yield cls(known, beside_model=beside_model)

    async def __call__(self, case: Case) -> bool:
        before = case.before[-1].text if case.before and case.before[-1].role == "assistant" else ""
        query, view = Query(words_of(case.text), before=words_of(before)), View(case.scopes)
        least = CLEAR if self._beside_model and not case.before else 0.0
        return any(hit.lead > least for hit in await self._memories.search(query, view, _DEPTH, for_recall=True))


class Model:
    """Trigger `model`: it writes `<recall>` before it begins to reply, given the dialogue so far, in private.

    margin: of the release that serves; None for the untrained model.
    """

    def __init__(
        self,
        writer: Writer,
        builder: PromptBuilder,
        prompts: Prompts,
        settings: Settings,
        seed: int,
        margin: float | None = None,
    ) -> None:
        self._writer = writer
        self._builder = builder
        self._settings = settings
        self._nothing = prompts.phrase("nothing")
        opening = unasked(builder.tokenizer, prompts.phrase("guide"))
        self._opening = None if margin is None else Opening(opening[0], margin)
        variables = {"bot_name": settings.chat.names[0], "user_name": _NAME, "user_id": _QQ}
        thinks = builder.tokenizer.thinks
        self._system = prompts.system("private", variables, silence=False, actions=thinks)
        shared = {field.name: getattr(settings.generation, field.name) for field in fields(Sampling)}
        self._sampling = replace(Sampling(**shared), seed=seed)
        self._now = datetime.now(UTC)
        # All prompts begin alike: what one has read of it, a later one of the same name need not read.
        self._names = cycle(f"eval:{number}" for number in range(2 * _AT_ONCE))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, load: Callable[[], Language], prompts: Prompts, settings: Settings, seed: int, release: Path | None = None
    ) -> AsyncGenerator[Self]:
        """One with an engine of its own. load: as of Engine. release: a folder of what it has learned."""
        engine = settings.engine
        async with Engine(load, max_batch=engine.max_batch, prefill_chunk=engine.prefill_chunk) as running:
            margin = None
            if release is not None:
                margin = (await asyncio.to_thread(read_manifest, release / "manifest.json")).margin
                await running.call(lambda model: model.use_release(release))
            builder = await asyncio.to_thread(PromptBuilder, (await running.ready()).tokenizer)
            yield cls(running, builder, prompts, settings, seed, margin)

    async def __call__(self, case: Case) -> bool:
        asked = False

        async def find(_: Ask) -> None:
            nonlocal asked
            asked = True

        recalling = Recalling(find, self._nothing, limit=1, opening=self._opening)
        request = await asyncio.to_thread(self._request, case, recalling)
        async with aclosing(self._writer.stream(request)) as items:
            async for item in items:
                if asked or (isinstance(item, Piece) and item.channel != "think"):
                    break
        return asked

    def _request(self, case: Case, recalling: Recalling) -> Request:
        chat = self._settings.chat
        turns = [*case.before, Turn("user", case.text)]
        names = {"user": (_NAME, _QQ), "assistant": ("", "")}
        said = [Said(n, turn.role, *names[turn.role], self._now, turn.text) for n, turn in enumerate(turns, 1)]
        prompt = self._builder.build(self._system, said, chat.history_tokens, chat.history_messages, 0)
        return Request(
            prompt.ids,
            self._settings.generation.max_new_tokens,
            self._sampling,
            conversation=next(self._names),
            channel="think" if self._builder.tokenizer.thinks else "reply",
            recall=recalling,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Of each trigger: rates, the share of each kind that recalls; scores, by group and name; wrong, what it got wrong.

    nums: cases of each kind.
    """

    nums: dict[str, int]
    rates: dict[str, dict[str, Figure]]
    scores: dict[str, dict[str, dict[str, Figure]]]
    wrong: dict[str, dict[str, list[str]]]

    def as_json(self) -> dict[str, Any]:
        kinds = {kind: {"messages": num, "needs_memory": NEEDS[kind]} for kind, num in self.nums.items()}
        triggers = {
            name: {
                "rates": {kind: figure.as_json() for kind, figure in rates.items()},
                "scores": {
                    group: {score: figure.as_json() for score, figure in figures.items()}
                    for group, figures in self.scores[name].items()
                },
                "wrong": self.wrong[name],
            }
            for name, rates in self.rates.items()
        }
        return {"kinds": kinds, "triggers": triggers}

    def as_text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield _line("share with a recall [95 %]", "messages", self.rates)
        for needs, head in ((True, "where one is needed"), (False, "where none is")):
            yield head
            for kind in (kind for kind in self.nums if NEEDS[kind] is needs):
                yield _line(f"  {kind}", self.nums[kind], (rates[kind] for rates in self.rates.values()))
        for group, names in next(iter(self.scores.values())).items():
            yield f"of {group}" if group == "all" else f"of {' and '.join(_GROUPS[group])}"
            for name in names:
                yield _line(f"  {name}", "", (scores[group][name] for scores in self.scores.values()))


def _line(head: str, num: object, cells: Iterator[object] | Mapping[str, object]) -> str:
    return f"{head:28}{num!s:>10}" + "".join(f"{cell!s:>20}" for cell in cells)


async def evaluate(cases: Sequence[Case], triggers: Mapping[str, Trigger], shown: Sequence[str]) -> Report:
    """Ask every trigger about every case. shown: names of triggers; `both` is what it asks for itself, or the model."""
    recalls = {name: await _asked(cases, trigger) for name, trigger in triggers.items()}
    if "both" in shown:
        recalls["both"] |= recalls["model"]
    kinds = np.array([case.kind for case in cases])
    nums = {kind: int((kinds == kind).sum()) for kind in NEEDS if kind in kinds}
    draws = Draws([case.dialogue for case in cases])
    return Report(
        nums,
        {name: {kind: draws.ratio(recalls[name] & (kinds == kind), kinds == kind) for kind in nums} for name in shown},
        {name: _scores(recalls[name], kinds, draws) for name in shown},
        {name: _wrong(recalls[name], cases) for name in shown},
    )


async def _asked(cases: Sequence[Case], trigger: Trigger) -> NDArray[np.bool_]:
    """What a trigger says of each case."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def ask(case: Case) -> bool:
        async with places:
            return await trigger(case)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(case)) for case in cases]
    return np.array([task.result() for task in tasks])


def _scores(recalls: NDArray[np.bool_], kinds: NDArray[np.str_], draws: Draws) -> dict[str, dict[str, Figure]]:
    """Precision, recall and F1 of each group."""
    scores = {}
    for group, members in _GROUPS.items():
        inside = np.isin(kinds, members)
        needed = inside & np.isin(kinds, [kind for kind, needs in NEEDS.items() if needs])
        made, right = recalls & inside, recalls & needed
        scores[group] = {
            "precision": draws.ratio(right, made),
            "recall": draws.ratio(right, needed),
            "F1": draws.ratio(2 * right, made.astype(int) + needed),
        }
    return scores


def _wrong(recalls: NDArray[np.bool_], cases: Sequence[Case]) -> dict[str, list[str]]:
    """By kind, the messages without a recall that need one, or with one that do not."""
    wrong: dict[str, list[str]] = {}
    for case, recalled in zip(cases, recalls, strict=True):
        if recalled != case.needs:
            wrong.setdefault(case.kind, []).append(case.text)
    return wrong
