from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.pool import NullPool

from qqmem import bridge_tables, train_tables, upload_tables  # noqa: F401  their tables belong to the metadata
from qqmem.db import Base, ConversationRow, Database, MessageRow
from qqmem.errors import DatabaseError
from qqmem.memory.tables import FTS

REPO = Path(__file__).parent.parent
NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)


def conversation(id: str, name: str = "") -> ConversationRow:
    return ConversationRow(id=id, name=name, created_at=NOW, updated_at=NOW)


def message(conversation_id: str) -> MessageRow:
    return MessageRow(
        conversation_id=conversation_id,
        role="user",
        sender_id="1",
        sender_name="",
        sender_role="",
        text="",
        addressed=False,
        time=NOW,
        stored_at=NOW,
    )


async def ids(db: Database) -> list[str]:
    async with db.read() as session:
        return list(await session.scalars(select(ConversationRow.id).order_by(ConversationRow.id)))


def dump(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    lines = list(connection.iterdump())
    connection.close()
    return lines


def execute(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(statement)
    connection.close()


def developers_config(file: Path) -> Config:
    config = Config(REPO / "alembic.ini")
    config.set_main_option("sqlalchemy.url", f"sqlite+aiosqlite:///{file}")
    return config


async def refusal(folder: Path) -> str:
    with pytest.raises(DatabaseError) as error:
        async with Database.open(folder):
            pass
    return str(error.value)


# Opening


async def test_open_makes_the_folder_and_the_tables(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "数据 %?#1 'x"
    async with Database.open(folder) as db:
        assert await ids(db) == []
    assert [path.name for path in folder.iterdir()] == ["qqmem.db"]


async def test_every_connection_has_the_pragmas(tmp_path: Path) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 5000}
    async with Database.open(tmp_path) as db, db.read() as one, db.write() as other:
        for session in (one, other):
            assert {name: await session.scalar(text(f"PRAGMA {name}")) for name in wanted} == wanted


async def test_opening_again_changes_nothing_and_keeps_what_is_there(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db, db.write() as session:
        session.add(conversation("group:7"))
    before = dump(tmp_path / "qqmem.db")
    for _ in range(2):
        async with Database.open(tmp_path) as db:
            assert await ids(db) == ["group:7"]
    assert dump(tmp_path / "qqmem.db") == before


async def test_a_database_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with Database.open(tmp_path):
        pass
    execute(tmp_path / "qqmem.db", "UPDATE alembic_version SET version_num = '9999'")
    before = dump(tmp_path / "qqmem.db")
    assert "newer" in await refusal(tmp_path)
    assert dump(tmp_path / "qqmem.db") == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "qqmem.db").write_bytes(b"my diary\n" * 1000)
    assert "no database" in await refusal(tmp_path)
    assert (tmp_path / "qqmem.db").read_bytes() == b"my diary\n" * 1000


async def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    async with Database.open(tmp_path):
        pass
    with (tmp_path / "qqmem.db").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    assert "damaged" in await refusal(tmp_path)


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert "cannot be made" in await refusal(tmp_path / "data")
    assert "cannot be made" in await refusal(tmp_path / "data" / "deeper")


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "qqmem.db").mkdir()
    assert "not writable" in await refusal(tmp_path)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder in which this process may not write, even if root runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)
        folder.chmod(0o755)


async def test_a_folder_that_is_not_writable_is_refused(read_only: Path) -> None:
    assert "not writable" in await refusal(read_only)
    assert "Permission denied" in await refusal(read_only / "new")


async def test_a_locked_database_is_refused_after_some_seconds(tmp_path: Path) -> None:
    async with Database.open(tmp_path):
        pass
    other = sqlite3.connect(tmp_path / "qqmem.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "locked" in await refusal(tmp_path)
    other.close()


# Transactions


async def test_a_write_is_committed_at_its_end_and_seen_only_then(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db:
        async with db.write() as session:
            session.add(conversation("group:7"))
            await session.flush()
            assert await ids(db) == []
        assert await ids(db) == ["group:7"]


async def test_a_reader_sees_one_moment(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db, db.read() as session:
        assert (await session.scalars(select(ConversationRow.id))).all() == []
        async with db.write() as writer:
            writer.add(conversation("group:7"))
        assert (await session.scalars(select(ConversationRow.id))).all() == []


async def test_an_error_rolls_back(tmp_path: Path) -> None:
    async def fail(db: Database) -> None:
        async with db.write() as session:
            session.add(conversation("group:7"))
            await session.flush()
            raise ZeroDivisionError

    async with Database.open(tmp_path) as db:
        with pytest.raises(ZeroDivisionError):
            await fail(db)
        assert await ids(db) == []


async def test_a_cancel_rolls_back_and_lets_the_next_writer_in(tmp_path: Path) -> None:
    written = asyncio.Event()

    async def write_and_wait(db: Database) -> None:
        async with db.write() as session:
            session.add(conversation("group:7"))
            await session.flush()
            written.set()
            await asyncio.Event().wait()

    async with Database.open(tmp_path) as db:
        task = asyncio.create_task(write_and_wait(db))
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with db.write() as session:
            session.add(conversation("group:8"))
        assert await ids(db) == ["group:8"]


async def test_a_call_of_a_session_is_never_broken_off(tmp_path: Path) -> None:
    """SQLAlchemy would give a connection back with the lock that a broken-off BEGIN then takes."""
    other = sqlite3.connect(tmp_path / "qqmem.db", isolation_level=None)

    async def write(db: Database) -> None:
        async with db.write() as session:
            begun.set()
            await session.execute(text("SELECT 1"))
            raise AssertionError("the cancel comes first")

    async with Database.open(tmp_path) as db:
        begun = asyncio.Event()
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(write(db))
        await begun.wait()
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        assert not task.done(), "its BEGIN waits for the lock"
        other.execute("ROLLBACK")
        other.close()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with db.write() as session:
            session.add(conversation("group:1"))


async def test_writers_that_read_first_lose_no_update(tmp_path: Path) -> None:
    async def add_one(db: Database) -> None:
        async with db.write() as session:
            row = await session.get_one(ConversationRow, "group:7")
            row.name = str(int(row.name) + 1)

    async with Database.open(tmp_path) as db:
        async with db.write() as session:
            session.add(conversation("group:7", name="0"))
        await asyncio.gather(*(add_one(db) for _ in range(50)))
        async with db.read() as session:
            assert (await session.get_one(ConversationRow, "group:7")).name == "50"


async def test_a_writer_has_the_lock_before_it_reads(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "qqmem.db", isolation_level=None, timeout=0)
    async with Database.open(tmp_path) as db, db.write() as session:
        await session.scalars(select(ConversationRow.id))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.close()


async def test_foreign_keys_are_enforced(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db:
        with pytest.raises(IntegrityError):
            async with db.write() as session:
                session.add(message("group:7"))


@pytest.mark.parametrize(("pragma", "sentence"), [("max_page_count = 1", "full"), ("query_only = ON", "not writable")])
async def test_a_disk_that_takes_no_more_is_one_clear_error(tmp_path: Path, pragma: str, sentence: str) -> None:
    async def write(db: Database) -> None:
        async with db.write() as session:
            await session.execute(text(f"PRAGMA {pragma}"))
            session.add(conversation("group:7", name="x" * 100_000))

    async with Database.open(tmp_path) as db:
        with pytest.raises(DatabaseError, match=sentence) as error:
            await write(db)
        assert str(tmp_path) not in str(error.value)
        assert await ids(db) == []


# Times


async def test_times_come_back_aware_and_in_utc(tmp_path: Path) -> None:
    shanghai = NOW.astimezone(timezone(timedelta(hours=8)))
    async with Database.open(tmp_path) as db:
        async with db.write() as session:
            session.add(ConversationRow(id="group:7", name="", created_at=shanghai, updated_at=NOW))
        async with db.read() as session:
            row = await session.get_one(ConversationRow, "group:7")
    assert row.created_at == row.updated_at == NOW
    assert row.created_at.tzinfo is UTC


async def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db:
        with pytest.raises(StatementError, match="needs a zone"):
            async with db.write() as session:
                session.add(ConversationRow(id="group:7", name="", created_at=datetime(2026, 1, 1), updated_at=NOW))


# Closing


async def test_a_closed_database_says_so_and_can_be_closed_again(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db:
        await db.close()
        await db.close()
        for session in (db.read, db.write):
            with pytest.raises(DatabaseError, match="closed"):
                async with session():
                    pass
    assert [path.name for path in tmp_path.iterdir()] == ["qqmem.db"]


async def test_close_lets_the_present_writer_end_and_refuses_those_behind_it(tmp_path: Path) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def write(db: Database, id: str) -> None:
        async with db.write() as session:
            inside.set()
            await go_on.wait()
            session.add(conversation(id))

    async with Database.open(tmp_path) as db:
        first = asyncio.create_task(write(db, "group:1"))
        await inside.wait()
        second = asyncio.create_task(write(db, "group:2"))
        closing = asyncio.create_task(db.close())
        go_on.set()
        _, refused, _ = await asyncio.gather(first, second, closing, return_exceptions=True)
        assert [path.name for path in tmp_path.iterdir()] == ["qqmem.db"]  # no -wal: no connection is left
    assert isinstance(refused, DatabaseError)
    async with Database.open(tmp_path) as db:
        assert await ids(db) == ["group:1"]


# Migrations


async def test_the_tables_are_those_of_the_models(tmp_path: Path) -> None:
    async with Database.open(tmp_path):
        pass
    engine = create_engine(f"sqlite:///{tmp_path / 'qqmem.db'}", poolclass=NullPool)
    with engine.connect() as connection:
        ours = {"include_name": lambda name, kind, _: kind != "table" or not name.startswith(FTS)}
        assert compare_metadata(MigrationContext.configure(connection, opts=ours), Base.metadata) == []


def test_every_migration_goes_up_and_down_the_way_developers_run_them(tmp_path: Path) -> None:
    file = tmp_path / "dev.db"
    config = developers_config(file)
    command.upgrade(config, "head")
    command.check(config)
    up = dump(file)
    command.downgrade(config, "base")
    assert not any("CREATE TABLE conversation" in line for line in dump(file))
    command.upgrade(config, "head")
    assert dump(file) == up


def test_a_new_migration_is_written_without_types_of_ours(tmp_path: Path) -> None:
    shutil.copytree(REPO / "alembic", tmp_path / "alembic")
    config = developers_config(tmp_path / "dev.db")
    config.set_main_option("script_location", str(tmp_path / "alembic"))
    shutil.rmtree(tmp_path / "alembic" / "versions")
    command.revision(config, "everything", autogenerate=True)
    (made,) = (tmp_path / "alembic" / "versions").glob("*.py")
    assert "sa.DateTime()" in made.read_text()
    assert "qqmem" not in made.read_text()


LATER = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "later", {head!r}

def upgrade():
    with op.batch_alter_table("conversation") as batch:
        batch.add_column(sa.Column("mood", sa.Text(), server_default="fine"))
        batch.alter_column("name", existing_type=sa.Text(), nullable=True)
    {then}
"""

OPEN = """
import asyncio, pathlib
from qqmem.db import Database

async def main():
    async with Database.open(pathlib.Path("data")):
        pass

asyncio.run(main())
"""


async def open_with_a_later_migration(folder: Path, then: str) -> int:
    """Store a message in folder/data, then open it with the package as a wheel lays it out, one migration ahead."""
    async with Database.open(folder / "data") as db, db.write() as session:
        session.add(conversation("group:7"))
        await session.flush()
        session.add(message("group:7"))
    shutil.copytree(REPO / "qqmem", folder / "qqmem")
    shutil.copytree(REPO / "alembic", folder / "qqmem" / "migrations")
    head = ScriptDirectory(str(REPO / "alembic")).get_current_head()
    later = folder / "qqmem" / "migrations" / "versions" / "later.py"
    later.write_text(LATER.format(head=head, then=then))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OPEN, cwd=folder, stderr=subprocess.DEVNULL)
    return await process.wait()


async def test_a_migration_that_copies_a_table_keeps_the_rows_that_depend_on_it(tmp_path: Path) -> None:
    assert await open_with_a_later_migration(tmp_path / "100%", then="pass") == 0
    lines = dump(tmp_path / "100%" / "data" / "qqmem.db")
    assert any("mood" in line for line in lines)
    assert any(line.startswith('INSERT INTO "message"') for line in lines)


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    assert await open_with_a_later_migration(tmp_path, then="raise RuntimeError") == 1
    assert not any("mood" in line for line in dump(tmp_path / "data" / "qqmem.db"))
    async with Database.open(tmp_path / "data") as db:
        assert await ids(db) == ["group:7"]
