"""The memories: every change and every question, answered with frozen records. SQLite is the truth.

A method that writes is one transaction, done when it returns. Whoever asks says by a View what may be seen, and the
queries themselves see no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, cast

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from qqmem.db import Database, MessageRow
from qqmem.errors import InvalidRequest, NotFound
from qqmem.memory.rules import MAX_CHARS, check_text, checked, digest, draft
from qqmem.memory.scope import Scope, View
from qqmem.memory.spaces import Spaces
from qqmem.memory.store_census import census
from qqmem.memory.store_forget import bury, citing, closure, erase, hide, sources, unlink_repeated, wipe
from qqmem.memory.store_put import Draft, Point, move_point, point_of, put, refuse_edit
from qqmem.memory.store_rows import (
    among,
    event_of,
    get,
    leave_index,
    left,
    new_event,
    records,
    retire,
    searchable,
    visible,
)
from qqmem.memory.store_words import Match, enter_words, lexical
from qqmem.memory.tables import MemoryChoiceRow, MemoryEventRow, MemoryPointRow, MemoryRow
from qqmem.memory.types import Census, Kind, Memory, MemoryEvent, NewMemory, State
from qqmem.memory.words import Segmenter

__all__ = ["MAX_CHARS", "Choice", "Match", "Point", "Store"]

Choice = Literal["muted", "open"]
"""muted: nothing is remembered of this person or group. open: this person's private memories may surface in groups."""

_PAGE = 200


class Store(Spaces):
    """What is remembered, in one database.

    actor: who does it, as in MemoryEvent. reason: for people; it never quotes a memory, because it stays.
    """

    def __init__(self, db: Database, segmenter: Segmenter | None = None) -> None:
        super().__init__(db)
        self._segmenter = segmenter or Segmenter()

    # What comes

    async def add(
        self, new: Sequence[NewMemory], actor: str, reason: str = "", *, point: Point | None = None
    ) -> list[Memory]:
        """Remember, and move a conversation's point. Returns what is new.

        Left out is what its owner had forgotten, what comes from a withdrawn message, and a text that the scope has
        already; nothing is done if the point's conversation is gone. Raises InvalidRequest, and then adds none.
        """
        drafts = await self._drafts(new)
        async with self._db.write() as session:
            if point is not None and not await move_point(session, point):
                return []
            done = await put(session, drafts, actor, reason)
            return await records(session, [one.row for one in done if one.row is not None and one.is_new])

    async def restore(
        self, found: Sequence[Memory], actor: str, reason: str = "", *, ids: dict[int, int] | None = None
    ) -> list[Memory | None]:
        """Store exported memories as they were, but for ids and vectors.

        ids: from those of the file to those here, kept by the caller from one part of a file to the next.
        Returns for each the stored one, or None: forgotten since then, or here already. Raises InvalidRequest.
        """
        here = {} if ids is None else ids
        drafts = await self._drafts(found)
        async with self._db.write() as session:
            done = await put(session, drafts, actor, reason)
            here |= {old.id: one.row.id for old, one in zip(found, done, strict=True) if one.row is not None}
            kept = [one.row for one in done if one.row is not None and one.is_new]
            for row in kept:
                row.superseded_by = here.get(row.superseded_by) if row.superseded_by else None
            new = iter(await records(session, kept))
            return [next(new) if one.is_new else None for one in done]

    async def relink(self, superseded: Mapping[int, int]) -> None:
        """Note which newer memory takes the place of which, for those that were restored in different calls."""
        links = [{"id": old, "superseded_by": new} for old, new in superseded.items()]
        async with self._db.write() as session:
            await session.execute(update(MemoryRow), links)

    async def supersede(
        self, ids: Collection[int], new: NewMemory, actor: str, reason: str = "", *, point: Point | None = None
    ) -> Memory | None:
        """Remember something newer in place of memories that are still searchable.

        Returns the newer one, which may have been there already. None if add would leave it out: the old ones stay.
        """
        drafts = await self._drafts([new])
        async with self._db.write() as session:
            if point is not None and not await move_point(session, point):
                return None
            (done,) = await put(session, drafts, actor, reason)
            if done.row is None:
                return None
            old = select(MemoryRow).where(among(MemoryRow.id, ids), MemoryRow.id != done.row.id, searchable())
            for row in await session.scalars(old):
                row.superseded_by = done.row.id
                await retire(session, row, "superseded", new.valid_from, new_event(row, "SUPERSEDE", actor, reason))
            return (await records(session, [done.row]))[0]

    # What changes

    async def edit(self, id: int, text: str, actor: str, reason: str = "") -> Memory:
        """Say it otherwise: its vectors go. Raises NotFound, InvalidRequest."""
        check_text(text)
        words = await asyncio.to_thread(self._words, text, (await self.find(id)).speaker_name)
        async with self._db.write() as session:
            row = await get(session, id)
            if row.text != text:
                await refuse_edit(session, row, text)
                session.add(new_event(row, "UPDATE", actor, reason, old=row.text, new=text))
                row.text, row.digest, row.decodable = text, digest(row.scope, text), ""
                await leave_index(session, [id])
                await enter_words(session, [(row, words)])
            return (await records(session, [row]))[0]

    async def expire(self, id: int, at: datetime, actor: str, reason: str = "") -> Memory:
        """It is no longer true since then. Raises NotFound."""
        async with self._db.write() as session:
            row = await get(session, id)
            if row.state == "searchable":
                await retire(session, row, "expired", at, new_event(row, "EXPIRE", actor, reason))
            return (await records(session, [row]))[0]

    async def pin(self, id: int, pinned: bool, actor: str) -> Memory:
        """A pinned memory is never evicted. Raises NotFound."""
        async with self._db.write() as session:
            row = await get(session, id)
            if row.pinned != pinned:
                row.pinned = pinned
                session.add(new_event(row, "PIN" if pinned else "UNPIN", actor, ""))
            return (await records(session, [row]))[0]

    async def used(self, ids: Collection[int]) -> None:
        """Count that memories were recalled."""
        values = {"hits": MemoryRow.hits + 1, "used_at": datetime.now(UTC)}
        async with self._db.write() as session:
            await session.execute(update(MemoryRow).where(among(MemoryRow.id, ids), left()).values(values))

    async def set_decodable(self, ids: Collection[int], release: str) -> None:
        """Note that this release's model can write these memories from their vectors."""
        async with self._db.write() as session:
            these = among(MemoryRow.id, ids), searchable()
            await session.execute(update(MemoryRow).where(*these).values(decodable=release))

    # What goes

    async def forget(self, ids: Collection[int], actor: str, reason: str = "") -> list[int]:
        """Forget memories for good, and whatever could tell of them. Returns all that are forgotten.

        With a memory go the others of its messages, and older versions of a fact. Their texts leave the database and
        never enter it again; their messages, the answers to these, and what the bot said from the memories, are hidden
        from prompts and extraction.
        """
        async with self._db.write() as session:
            gone = await closure(session, ids)
            await bury(session, gone)
            await hide(session, gone, among(MessageRow.id, await sources(session, gone)))
            await wipe(session, gone, actor, reason)
            return gone

    async def forget_messages(
        self, conversation: str, messages: Collection[int], actor: str, reason: str = ""
    ) -> list[int]:
        """Hide withdrawn messages and the answers to them, and delete the memories that cite one. Returns these.

        What the same person has said in another message too, in the same words, stays.
        """
        async with self._db.write() as session:
            await unlink_repeated(session, conversation, messages)
            gone = [row.id for row in await citing(session, conversation, messages)]
            here = MessageRow.conversation_id == conversation
            await hide(session, gone, here, among(MessageRow.id, messages))
            await wipe(session, gone, actor, reason)
            return gone

    async def forget_conversation(self, conversation: str, actor: str) -> list[int]:
        """Hide all of a conversation, and delete the memories that come from it. Returns these."""
        from_it = select(MemoryRow.id).where(MemoryRow.conversation == conversation, left())
        async with self._db.write() as session:
            gone = list(await session.scalars(from_it))
            await hide(session, gone, MessageRow.conversation_id == conversation)
            await wipe(session, gone, actor, "")
            return gone

    async def evict(self, max_size: int) -> list[int]:
        """Delete what is beyond that number: what is no longer true, then the least and longest unused, none pinned.

        Their messages stay as they are, and the same may be remembered again.
        """
        last = func.coalesce(MemoryRow.used_at, MemoryRow.created_at)
        order = MemoryRow.state == "searchable", MemoryRow.hits, last, MemoryRow.id
        least = select(MemoryRow.id).where(left(), ~MemoryRow.pinned).order_by(*order)
        async with self._db.write() as session:
            size = await session.scalar(select(func.count()).select_from(MemoryRow).where(left())) or 0
            gone = list(await session.scalars(least.limit(max(0, size - max_size))))
            await erase(session, gone, "evict", "")
            return gone

    # What is chosen

    async def set_choice(self, party: str, choice: Choice, on: bool) -> None:
        """party: `user:<qq>` or `group:<gid>`. Raises InvalidRequest."""
        if Scope.parse(party).kind not in ("user", "group"):
            raise InvalidRequest("Only a person or a group can choose; write user:<qq> or group:<group id>.")
        row = {"party": party, "choice": choice}
        async with self._db.write() as session:
            if on:
                await session.execute(upsert(MemoryChoiceRow).values(row).on_conflict_do_nothing())
            else:
                await session.execute(delete(MemoryChoiceRow).filter_by(**row))

    async def choices(self, choice: Choice) -> frozenset[str]:
        """The parties that have chosen so."""
        chosen = select(MemoryChoiceRow.party).where(MemoryChoiceRow.choice == choice)
        async with self._db.read() as session:
            return frozenset(await session.scalars(chosen))

    # What is there

    async def seen(self, ids: Sequence[int], view: View) -> list[Memory]:
        """Those of the memories that may be found and seen there, in this order."""
        return await self._these(ids, searchable(), visible(view))

    async def some(self, ids: Sequence[int], view: View) -> list[Memory]:
        """Those of the memories, of any state but deleted, that may be seen there, in this order."""
        return await self._these(ids, left(), visible(view))

    async def find(self, id: int) -> Memory:
        """One of any state but deleted. Raises NotFound."""
        async with self._db.read() as session:
            return (await records(session, [await get(session, id)]))[0]

    async def page(
        self,
        view: View,
        limit: int,
        before: int | None = None,
        *,
        kind: Kind | None = None,
        state: State | None = None,
        subject: str | None = None,
    ) -> list[Memory]:
        """The newest of all, or of those before an id; newest first, deleted ones never."""
        asked = {MemoryRow.kind: kind, MemoryRow.state: state, MemoryRow.subject_id: subject}
        where = [column == value for column, value in asked.items() if value is not None]
        return await self._page(limit, before, left(), visible(view), *where)

    async def own(self, qq: str, view: View, words: str = "") -> list[Memory]:
        """What this person has said, or is about them, and holds; newest first. words: somewhere in it."""
        theirs = or_(MemoryRow.speaker_id == qq, MemoryRow.subject_id == qq)
        found: list[Memory] = []
        last: int | None = None
        while page := await self._page(_PAGE, last, searchable(), visible(view), theirs):
            found += [memory for memory in page if words.casefold() in memory.text.casefold()]
            last = page[-1].id
        return found

    async def by_source(self, conversation: str, messages: Collection[int]) -> list[Memory]:
        """The memories, of any state but deleted, that come from one of these messages."""
        async with self._db.read() as session:
            return await records(session, await citing(session, conversation, messages))

    async def history(self, id: int) -> list[MemoryEvent]:
        """All that happened to a memory, oldest first, even if it is deleted. Raises NotFound."""
        events = select(MemoryEventRow).where(MemoryEventRow.memory_id == id).order_by(MemoryEventRow.id)
        async with self._db.read() as session:
            if await session.get(MemoryRow, id) is None:
                raise NotFound(f"There is no memory {id}.")
            return [event_of(row) for row in await session.scalars(events)]

    async def lexical(self, text: str, view: View, k: int) -> list[Match]:
        """The memories with the words of any text, best first."""
        words = await asyncio.to_thread(self._segmenter.words, text)
        async with self._db.read() as session:
            return await lexical(session, words, view, k)

    async def count(self) -> dict[State, int]:
        counts: dict[State, int] = {"searchable": 0, "superseded": 0, "expired": 0, "deleted": 0}
        async with self._db.read() as session:
            found = await session.execute(select(MemoryRow.state, func.count()).group_by(MemoryRow.state))
            return counts | {cast(State, state): num for state, num in found}

    async def census(self, most: int) -> Census:
        """How many there are of which kind; at most so many scopes and subjects, the largest."""
        async with self._db.read() as session:
            return await census(session, most)

    async def points(self) -> dict[str, Point]:
        """By conversation."""
        async with self._db.read() as session:
            return {row.conversation_id: point_of(row) for row in await session.scalars(select(MemoryPointRow))}

    async def point(self, conversation: str) -> Point:
        async with self._db.read() as session:
            row = await session.get(MemoryPointRow, conversation)
        return Point(conversation) if row is None else point_of(row)

    async def _these(self, ids: Sequence[int], *where: ColumnElement[bool]) -> list[Memory]:
        found = select(MemoryRow).where(among(MemoryRow.id, ids), *where)
        async with self._db.read() as session:
            rows = {row.id: row for row in await session.scalars(found)}
            return await records(session, [rows[id] for id in ids if id in rows])

    async def _page(self, limit: int, before: int | None, *where: ColumnElement[bool]) -> list[Memory]:
        query = select(MemoryRow).where(*where).order_by(MemoryRow.id.desc()).limit(limit)
        older = query if before is None else query.where(MemoryRow.id < before)
        async with self._db.read() as session:
            return await records(session, (await session.scalars(older)).all())

    async def _drafts(self, told: Sequence[NewMemory | Memory]) -> list[Draft]:
        """Raises InvalidRequest."""
        now = datetime.now(UTC)

        def cut() -> list[Draft]:
            memories = [checked(one) if isinstance(one, Memory) else draft(one, now) for one in told]
            return [Draft(one, self._words(one.text, one.speaker_name)) for one in memories]

        return await asyncio.to_thread(cut)

    def _words(self, text: str, name: str) -> str:
        return " ".join(self._segmenter.words(f"{name}\n{text}"))
