"""Files that came with messages: kept by their content, and no longer than there is a message that has them.

An upload can be read while a message that was not taken back has it, or for an hour after it came, so that its message
has time to come too. What is no longer so is answered as unknown at once, and deleted by the next sweep.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from qqmem.db import Database, MessageRow
from qqmem.errors import DatabaseError, InvalidRequest, QqmemError, TooLarge
from qqmem.formats import FORMATS, HEAD, Kind, format_of
from qqmem.upload_tables import AttachmentRow, UploadRow

log = logging.getLogger(__name__)

LARGEST: dict[Kind, int] = {"image": 20 * 2**20, "video": 100 * 2**20, "audio": 20 * 2**20, "file": 50 * 2**20}
"""Bytes."""
GRACE = timedelta(hours=1)
"""How long an upload may wait for its message."""
SWEEP_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Upload:
    """id: by which messages name it. size: in bytes. path: where it lies."""

    id: str
    kind: Kind
    extension: str
    size: int
    path: Path

    @property
    def media_type(self) -> str:
        return FORMATS[self.extension]

    @property
    def name(self) -> str:
        """As the last part of its address."""
        return f"{self.id.partition('-')[2]}.{self.extension}"


async def claim(session: AsyncSession, message: MessageRow, uploads: Sequence[str]) -> None:
    """A message with these uploads is being stored, in a transaction of others. Unknown ones are left out."""
    for n, upload in enumerate(dict.fromkeys(uploads)):
        if (row := await session.get(UploadRow, upload)) is not None:
            row.claimed_at = message.stored_at
            session.add(AttachmentRow(message=message.id, n=n, upload=upload))


class Uploads:
    """The files below one folder, which is made when it is needed."""

    def __init__(self, db: Database, folder: Path) -> None:
        self._db = db
        self._folder = folder
        # A file and its row change together: what is being deleted is not uploaded again in between.
        self._changing = asyncio.Lock()

    async def run(self) -> None:
        """Delete what nothing has any more, now and then, until cancelled."""
        await asyncio.to_thread(self._discard_incoming)
        while True:
            try:
                await self.sweep(datetime.now(UTC))
            except QqmemError as error:
                log.error("uploads: %s", error)
            except OSError:
                log.exception("uploads: the files cannot be swept")
            await asyncio.sleep(SWEEP_SECONDS)

    async def add(self, kind: Kind, chunks: AsyncIterator[bytes]) -> Upload:
        """Keep a file; one that is there already is not kept twice.

        Raises InvalidRequest (empty, or nothing of this kind), TooLarge, DatabaseError.
        """
        try:
            return await self._add(kind, chunks)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            way = "make room and try again" if full else "see its permissions, or choose another with --data"
            raise DatabaseError(f"The data folder cannot be written ({error.strerror}); {way}.") from error

    async def _add(self, kind: Kind, chunks: AsyncIterator[bytes]) -> Upload:
        incoming = self._folder / "incoming" / uuid.uuid4().hex
        file = await asyncio.to_thread(_create, incoming)
        try:
            digest, head, size = await _copy(chunks, file, LARGEST[kind])
            found = format_of(kind, head)
            if not size:
                raise InvalidRequest("The file is empty.")
            if found is None:
                raise InvalidRequest(f"The file is no {kind} of a known format.")
            upload = self._upload(f"{kind}-{digest}", kind, found.extension, size)
            async with self._changing:
                await asyncio.to_thread(_publish, file, incoming, upload.path)
                now = datetime.now(UTC)
                async with self._db.write() as session:
                    row = await session.get(UploadRow, upload.id)
                    if row is None:
                        row = UploadRow(id=upload.id, kind=kind, extension=found.extension, size=size)
                        session.add(row)
                    row.touched_at = now
            return upload
        finally:
            file.close()
            await asyncio.to_thread(incoming.unlink, missing_ok=True)

    async def find(self, kind: Kind, name: str) -> Upload | None:
        """By the last part of its address; None if there is none that may be read now."""
        digest, _, extension = name.partition(".")
        query = select(UploadRow).where(UploadRow.id == f"{kind}-{digest}", UploadRow.extension == extension)
        async with self._db.read() as session:
            row = await session.scalar(query.where(_is_held(datetime.now(UTC))))
        found = None if row is None else self._upload(row.id, kind, row.extension, row.size)
        return found if found is not None and await asyncio.to_thread(found.path.is_file) else None

    async def sweep(self, now: datetime) -> int:
        """Delete what nothing has any more. Returns how many."""
        async with self._changing:
            async with self._db.write() as session:
                gone = await session.execute(
                    delete(UploadRow).where(~_is_held(now)).returning(UploadRow.id, UploadRow.kind, UploadRow.extension)
                )
                paths = [self._upload(id, cast(Kind, kind), extension, 0).path for id, kind, extension in gone]
            for path in paths:
                await asyncio.to_thread(path.unlink, missing_ok=True)
        if paths:
            log.info("uploads: %d deleted", len(paths))
        return len(paths) + await self._sweep_strays(now)

    async def _sweep_strays(self, now: datetime) -> int:
        """Delete files of which the database does not know: a crash came between the two."""
        old = await asyncio.to_thread(self._older_than, (now - GRACE).timestamp())
        async with self._db.read() as session:
            known = set(await session.scalars(select(UploadRow.id)))
        strays = [path for id, path in old if id not in known]
        for path in strays:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        return len(strays)

    def _older_than(self, time: float) -> list[tuple[str, Path]]:
        kinds: tuple[Kind, ...] = ("image", "video", "audio", "file")
        files = [(kind, path) for kind in kinds for path in (self._folder / f"{kind}s").glob("*/*")]
        return [(f"{kind}-{path.stem}", path) for kind, path in files if path.stat().st_mtime < time]

    def _discard_incoming(self) -> None:
        """What a kill has left half written."""
        for path in (self._folder / "incoming").glob("*"):
            path.unlink(missing_ok=True)

    def _upload(self, id: str, kind: Kind, extension: str, size: int) -> Upload:
        digest = id.partition("-")[2]
        path = self._folder / f"{kind}s" / digest[:2] / f"{digest}.{extension}"
        return Upload(id, kind, extension, size, path)


def _is_held(now: datetime) -> ColumnElement[bool]:
    """Whether a message has it, or its message may yet come."""
    live = select(AttachmentRow.upload).join(MessageRow, MessageRow.id == AttachmentRow.message)
    has = UploadRow.id.in_(live.where(~MessageRow.withdrawn))
    unclaimed = or_(UploadRow.claimed_at.is_(None), UploadRow.touched_at > UploadRow.claimed_at)
    return or_(has, unclaimed & (UploadRow.touched_at > now - GRACE))


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


async def _copy(chunks: AsyncIterator[bytes], file: BinaryIO, largest: int) -> tuple[str, bytes, int]:
    """Returns the hash, the first bytes and the size of what was written."""
    digest, head, size = hashlib.sha256(), b"", 0
    async for chunk in chunks:
        size += len(chunk)
        if size > largest:
            raise TooLarge(f"The file is too large; at most {largest // 2**20} MB are accepted.")
        head += chunk[: HEAD - len(head)]
        digest.update(chunk)
        await asyncio.to_thread(file.write, chunk)
    return digest.hexdigest(), head, size


def _publish(file: BinaryIO, incoming: Path, path: Path) -> None:
    """Under its own name it is whole, whatever happens."""
    file.flush()
    os.fsync(file.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming.replace(path)
