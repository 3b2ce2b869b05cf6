"""How memories leave: with everything that came from the same messages, and without a trace of their text."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, delete, insert, literal, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from qqmem.db import MessageRow, RecallRow
from qqmem.memory.rules import digest
from qqmem.memory.store_rows import among, leave_index, left
from qqmem.memory.tables import FTS, MemoryEventRow, MemoryRow, MemorySourceRow, MemoryTombstoneRow

# A fact takes along all that cites one of its messages, and its own older versions. Words that somebody has said many
# times ("好的") are one memory with many messages: taken along, they do not take along whatever cites the others.
_CLOSURE = text("""
    WITH RECURSIVE asked(id) AS (SELECT value FROM json_each(:ids)), gone(id) AS (
        SELECT memory.id FROM asked JOIN memory USING (id) WHERE state != 'deleted'
        UNION
        SELECT other.id FROM gone
        JOIN memory AS this ON this.id = gone.id AND (this.kind = 'fact' OR this.id IN asked)
        JOIN memory_source AS cited ON cited.memory_id = this.id
        JOIN memory_source AS citing ON citing.message_id = cited.message_id
        JOIN memory AS other ON other.id = citing.memory_id AND other.conversation = this.conversation
        WHERE other.state != 'deleted'
        UNION
        SELECT memory.id FROM gone JOIN memory ON superseded_by = gone.id WHERE state != 'deleted'
    )
    SELECT id FROM gone ORDER BY id
""")

_QUIETLY = {"synchronize_session": False}


async def closure(session: AsyncSession, ids: Collection[int]) -> list[int]:
    """The memories that go when these are forgotten: those of them that are left, and what hangs on them."""
    return list(await session.scalars(_CLOSURE, {"ids": json.dumps(list(ids))}))


async def sources(session: AsyncSession, ids: Collection[int]) -> list[int]:
    """The messages here that these memories come from."""
    link = select(MessageRow.id).join(MemorySourceRow, MemorySourceRow.message_id == MessageRow.id)
    here = link.join(
        MemoryRow, and_(MemoryRow.id == MemorySourceRow.memory_id, MemoryRow.conversation == MessageRow.conversation_id)
    )
    return list(await session.scalars(here.where(among(MemoryRow.id, ids)).distinct()))


async def citing(session: AsyncSession, conversation: str, messages: Collection[int]) -> list[MemoryRow]:
    """The memories that are left of those that come from one of these messages."""
    cited = select(MemorySourceRow.memory_id).where(among(MemorySourceRow.message_id, messages))
    here = MemoryRow.conversation == conversation, left()
    return list(await session.scalars(select(MemoryRow).where(MemoryRow.id.in_(cited), *here).order_by(MemoryRow.id)))


async def unlink_repeated(session: AsyncSession, conversation: str, messages: Collection[int]) -> None:
    """Let words that somebody has said in other messages too no longer come from these."""
    rows = [row.id for row in await citing(session, conversation, messages) if row.kind == "message"]
    elsewhere = (
        select(MemorySourceRow.memory_id)
        .join(MessageRow, MessageRow.id == MemorySourceRow.message_id)
        .where(among(MemorySourceRow.memory_id, rows), ~among(MessageRow.id, messages), ~MessageRow.withdrawn)
    )
    repeated = MemorySourceRow.memory_id.in_((await session.scalars(elsewhere)).all())
    await session.execute(delete(MemorySourceRow).where(repeated, among(MemorySourceRow.message_id, messages)))


async def bury(session: AsyncSession, ids: Collection[int]) -> None:
    """See to it that these texts are never stored again for their owners, nor what they were before an edit."""
    digests = set(await session.scalars(select(MemoryRow.digest).where(among(MemoryRow.id, ids))))
    former = select(MemoryRow.scope, MemoryEventRow.old).join(MemoryEventRow, MemoryEventRow.memory_id == MemoryRow.id)
    edited = former.where(among(MemoryRow.id, ids), MemoryEventRow.event == "UPDATE")
    digests |= {digest(scope, old) for scope, old in await session.execute(edited)}
    if hashes := [{"digest": each} for each in digests]:
        await session.execute(upsert(MemoryTombstoneRow).on_conflict_do_nothing(), hashes)


async def hide(session: AsyncSession, memories: Collection[int], *messages: ColumnElement[bool]) -> None:
    """Hide messages from prompts and extraction, and what the bot said in answer to them or from these memories."""
    answered = select(MessageRow.turn_id).where(*messages)
    recalled = select(RecallRow.turn_id).where(among(RecallRow.memory_id, memories))
    turns = {turn for query in (answered, recalled) for turn in await session.scalars(query) if turn is not None}
    told = MessageRow.role == "assistant", among(MessageRow.turn_id, turns)
    # One after the other: for an OR of the two, SQLite would walk over all messages.
    for these in (messages, told):
        hidden = update(MessageRow).where(*these).values(withdrawn=True)
        await session.execute(hidden, execution_options=_QUIETLY)
    cues = update(RecallRow).where(among(RecallRow.turn_id, turns)).values(cue="")
    await session.execute(cues, execution_options=_QUIETLY)


async def erase(session: AsyncSession, ids: Collection[int], actor: str, reason: str) -> None:
    """Delete memories: their rows stay, their text goes."""
    if not ids:
        return
    await leave_index(session, ids)
    empty = {"state": "deleted", "text": "", "digest": "", "decodable": ""}
    await session.execute(update(MemoryRow).where(among(MemoryRow.id, ids)).values(empty), execution_options=_QUIETLY)
    texts = update(MemoryEventRow).where(among(MemoryEventRow.memory_id, ids))
    await session.execute(texts.values(old="", new=""), execution_options=_QUIETLY)
    told = {"event": "DELETE", "old": "", "new": "", "actor": actor, "reason": reason, "at": datetime.now(UTC)}
    values = [literal(value, MemoryEventRow.__table__.c[name].type) for name, value in told.items()]
    each = select(MemoryRow.id, *values).where(among(MemoryRow.id, ids))
    await session.execute(insert(MemoryEventRow).from_select(["memory_id", *told], each))


async def wipe(session: AsyncSession, ids: Collection[int], actor: str, reason: str) -> None:
    """Delete memories so that the file holds nothing of them."""
    await erase(session, ids, actor, reason)
    if ids:
        # FTS5 keeps deleted words until it happens to merge them away.
        await session.execute(text(f"INSERT INTO {FTS} ({FTS}) VALUES ('optimize')"))
