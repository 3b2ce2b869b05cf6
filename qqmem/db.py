"""The SQLite database: connections, transactions, migrations, tables; what the rows mean is history.py's business."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    REAL,
    URL,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    false,
    text,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from qqmem.errors import DatabaseError

# A stored message survives a power cut (FULL), and what was deleted leaves no text in the file.
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON")

_NO_DATABASE = "qqmem.db in {where} is damaged or no database; restore a backup, or move it away to start afresh."
_NOT_WRITABLE = "The database in {where} is not writable; change its permissions, or choose another folder."
_SENTENCES = {
    sqlite3.SQLITE_BUSY: "Another program keeps the database in {where} locked; stop it and try again.",
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _NOT_WRITABLE,
    sqlite3.SQLITE_FULL: "The disk of {where} is full; make room and try again.",
    sqlite3.SQLITE_IOERR: "The disk of {where} cannot be read or written; see whether it is full or broken.",
    sqlite3.SQLITE_CORRUPT: _NO_DATABASE,
    sqlite3.SQLITE_NOTADB: _NO_DATABASE,
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, kept as UTC; a naive one is refused."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"A time needs a zone: {value}")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map: ClassVar = {
        str: Text,
        float: REAL,
        datetime: UtcDateTime,
        list[dict[str, Any]]: JSON,
    }
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class ConversationRow(Base):
    """A private chat or a group. begins_at: the id of the first message that a prompt may show."""

    __tablename__ = "conversation"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    begins_at: Mapped[int] = mapped_column(default=0, server_default="0")


class TurnRow(Base):
    """One attempt to answer; it runs as long as it has no end."""

    __tablename__ = "turn"
    # AUTOINCREMENT: the id of what was deleted never names anything else.
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversation.id", ondelete="CASCADE"), index=True)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)
    outcome: Mapped[str]
    reply: Mapped[str] = mapped_column(default="")
    thinking: Mapped[str] = mapped_column(default="")
    actions: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    error: Mapped[str] = mapped_column(default="")
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    cached_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    queue_s: Mapped[float] = mapped_column(default=0.0)
    first_token_s: Mapped[float] = mapped_column(default=0.0)
    total_s: Mapped[float] = mapped_column(default=0.0)


class MessageRow(Base):
    """What somebody, or the bot, said, in the order of ids. owed: the bridge that brought it waits for an answer."""

    __tablename__ = "message"
    __table_args__ = (
        UniqueConstraint("conversation_id", "message_id"),
        Index(None, "conversation_id", "id"),
        Index("ix_message_owed", "owed", sqlite_where=text("owed")),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversation.id", ondelete="CASCADE"))
    role: Mapped[str]
    message_id: Mapped[str | None]
    sender_id: Mapped[str]
    sender_name: Mapped[str]
    sender_role: Mapped[str]
    text: Mapped[str]
    reply_to: Mapped[str | None]
    addressed: Mapped[bool]
    time: Mapped[datetime]
    stored_at: Mapped[datetime]
    turn_id: Mapped[int | None] = mapped_column(ForeignKey("turn.id"), index=True)
    withdrawn: Mapped[bool] = mapped_column(default=False)
    bridge: Mapped[str] = mapped_column(default="", server_default="")
    owed: Mapped[bool] = mapped_column(default=False, server_default=false())


class RecallRow(Base):
    """One recall of a turn. mode: `spliced`, `decoded` or `none`. candidates: what was found, without any text."""

    __tablename__ = "recall"

    id: Mapped[int] = mapped_column(primary_key=True)
    turn_id: Mapped[int] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), index=True)
    n: Mapped[int]
    cue: Mapped[str]
    mode: Mapped[str]
    memory_id: Mapped[int | None] = mapped_column(index=True)
    candidates: Mapped[list[dict[str, Any]]] = mapped_column(default=list)


F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def _whole(method: F) -> F:
    """The method, which a cancel lets end before it is raised."""

    @wraps(method)
    async def run(*args: Any, **kwargs: Any) -> Any:
        task = asyncio.ensure_future(method(*args, **kwargs))
        cancelled = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return task.result()
        task.exception()  # nobody is left to be told
        raise cancelled

    return cast(F, run)


class _Session(AsyncSession):
    """A session whose calls are never broken off.

    Where a cancel meets a BEGIN on its way, SQLAlchemy gives the connection back with the lock that it then has.
    """

    execute = _whole(AsyncSession.execute)
    scalars = _whole(AsyncSession.scalars)
    scalar = _whole(AsyncSession.scalar)  # type: ignore[assignment, arg-type]
    get = _whole(AsyncSession.get)
    merge = _whole(AsyncSession.merge)
    delete = _whole(AsyncSession.delete)
    flush = _whole(AsyncSession.flush)
    commit = _whole(AsyncSession.commit)
    rollback = _whole(AsyncSession.rollback)
    close = _whole(AsyncSession.close)


class Database:
    """An open database. Writers take turns, first come, first served; readers never wait for them (WAL)."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._readers = async_sessionmaker(engine, class_=_Session, expire_on_commit=False)
        immediate = engine.execution_options(begin="BEGIN IMMEDIATE")
        self._writers = async_sessionmaker(immediate, class_=_Session, expire_on_commit=False)
        # SQLite's own lock is waited for by polling, which knows no order.
        self._writing = asyncio.Lock()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncGenerator[Self]:
        """Open `qqmem.db` in the folder; both are made if need be, and the tables brought up to date.

        Raises DatabaseError: not writable, not a database, written by a newer program, disk full, locked.
        """
        db = cls(await asyncio.to_thread(_open, folder / "qqmem.db"))
        try:
            yield db
        finally:
            await db.close()

    async def close(self) -> None:
        """Let the present writer end, and close all connections; nothing can be read or written from then on."""
        self._closed = True
        async with self._writing:
            await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncSession]:
        """A session that sees one moment of the database. Raises DatabaseError."""
        self._refuse_if_closed()
        with _translated("the data folder"):
            session = self._readers()
            try:
                yield session
            finally:
                await session.close()

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[AsyncSession]:
        """A session that is committed at the end, or rolled back on an error or a cancel. Raises DatabaseError."""
        async with self._writing:
            self._refuse_if_closed()
            with _translated("the data folder"):
                session = self._writers()
                try:
                    yield session
                    await session.commit()
                finally:
                    await session.close()  # rolls back what is not committed

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise DatabaseError("The database is closed, because the program is stopping; start it again.")


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn what SQLite says about disks, rights and locks into a DatabaseError; its other errors are bugs."""
    try:
        yield
    except DBAPIError as error:
        # Errors that the driver itself raises have no code.
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK)
        sentence = _SENTENCES.get(code & 0xFF)
        if sentence is None:
            raise
        raise DatabaseError(sentence.format(where=where)) from error


def _open(path: Path) -> AsyncEngine:
    _prepare(path)
    engine = create_async_engine(URL.create("sqlite+aiosqlite", database=str(path)))
    _configure(engine.sync_engine, *_PRAGMAS, "foreign_keys = ON")
    return engine


def _configure(engine: Engine, *pragmas: str) -> None:
    """Set the pragmas on each new connection, and begin each transaction ourselves.

    The driver would begin it only at the first write: what was read before could have changed by then.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _prepare(path: Path) -> None:
    """Make what is missing: the folder, the file, and every migration it has not seen, in one transaction."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"The folder {path.parent} cannot be made ({error.strerror}); choose another with --data."
        ) from error
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        execution_options={"begin": "BEGIN IMMEDIATE"},
    )
    # Without foreign keys: when batch mode copies a table and drops the old one, they would delete its dependents.
    _configure(engine, *_PRAGMAS)
    with _translated(str(path.parent)), engine.begin() as connection:
        _migrate(connection, path)


def _migrate(connection: Connection, path: Path) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if not known.issuperset(MigrationContext.configure(connection).get_current_heads()):
        raise DatabaseError(
            f"{path} was written by a newer qqmem; update this program, or choose another folder with --data."
        )
    command.upgrade(config, "head")


def _scripts() -> Path:
    """The migrations: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "alembic"
