"""From messages to facts that are kept: the model is asked, its claims are grounded, and what is new is stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from qqmem.memory.extract import Ask, Source, parse, shown
from qqmem.memory.grounding import Fact, ground
from qqmem.memory.memories import Memories
from qqmem.memory.merge import Verdict, verdict, weigh
from qqmem.memory.scope import Scope, View, said_in
from qqmem.memory.store import Point
from qqmem.memory.types import Memory, NewMemory, Query

log = logging.getLogger(__name__)

ACTOR = "extract"

_NEIGHBOURS = 20
"""Memories that are looked at for what is known: the messages that a fact comes from are among the nearest."""


class Facts:
    """Draws facts. extract, compare: the system prompts for it."""

    def __init__(self, memories: Memories, ask: Ask, extract: str, compare: str) -> None:
        self._memories = memories
        self._ask = ask
        self._extract = extract
        self._compare_prompt = compare

    async def draw(self, sources: Sequence[Source], point: Point) -> list[Memory]:
        """Ask for the facts of some messages, and store those that are new. Raises EngineError, DatabaseError.

        point: up to where the conversation has been read then; it is moved with the last fact. After a crash on the
        way, the facts that were stored are drawn again, and known.
        """
        claims = parse(await self._ask(self._extract, shown(sources))) if sources else []
        facts = dict[str, Fact]()
        for claim in claims:
            if (fact := ground(claim, sources)) is not None:
                facts.setdefault(fact.text, fact)
        log.info("%s: %d claims, %d facts", point.conversation, len(claims), len(facts))
        *first, last = facts.values() if facts else [None]
        stored = [await self._keep(fact, Point(point.conversation)) for fact in first if fact is not None]
        stored.append(await self._keep(last, point))
        return [memory for memory in stored if memory is not None]

    async def _keep(self, fact: Fact | None, point: Point) -> Memory | None:
        """Store a fact, if there is one and it is not known, and move the point.

        A conversation that is gone by now has no point, and the store keeps nothing of it.
        """
        if fact is None:
            await self._memories.add([], ACTOR, point=point)
            return None
        new = _memory(fact, point.conversation)
        before = await self._memories.store.by_source(new.conversation, new.sources)
        if any((one.kind, one.text) == ("fact", new.text) for one in before):
            return await self._keep(None, point)
        near = await self._memories.search(Query(new.text), View.only(Scope.parse(new.scope)), _NEIGHBOURS)
        decision = await weigh(new, [hit.memory for hit in near], self._compare)
        if decision.replaces:
            return await self._memories.supersede(decision.replaces, new, ACTOR, point=point)
        if decision.known is not None:
            # Under the same words the store links the messages to the memory that is there.
            new = replace(new, text=decision.known.text)
        return next(iter(await self._memories.add([new], ACTOR, point=point)), None)

    async def _compare(self, known: str, new: str) -> Verdict:
        return verdict(await self._ask(self._compare_prompt, f"1. {known}\n2. {new}"))


def _memory(fact: Fact, conversation: str) -> NewMemory:
    speakers = {one.speaker for one in fact.cited}
    # What several people of a group said together is the group's.
    scope = said_in(conversation, fact.teller.speaker) if len(speakers) == 1 else Scope.parse(conversation)
    return NewMemory(
        kind="fact",
        scope=str(scope),
        text=fact.text,
        valid_from=max(one.time for one in fact.cited),
        subject_id=fact.subject.speaker if fact.subject else "",
        speaker_id=fact.teller.speaker,
        speaker_name=fact.teller.name,
        conversation=conversation,
        sources=tuple(sorted(one.id for one in fact.cited)),
    )
