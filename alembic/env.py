"""How alembic reaches the database: over the connection that qqmem.db hands in, else over the URL of alembic.ini."""

from __future__ import annotations

import asyncio
from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from qqmem import bridge_tables, train_tables, upload_tables  # noqa: F401  their tables belong to the metadata
from qqmem.db import Base, UtcDateTime
from qqmem.memory.tables import FTS


def render_item(kind: str, item: object, _: AutogenContext) -> str | Literal[False]:
    # A migration must not change with the code: it names no type of ours.
    return "sa.DateTime()" if isinstance(item, UtcDateTime) else False


def include_name(name: str | None, kind: str, _: object) -> bool:
    return not (kind == "table" and name is not None and name.startswith(FTS))


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite can hardly alter a table: copy it instead.
        render_item=render_item,
        include_name=include_name,  # The tables of FTS5 are no tables of ours.
    )
    with context.begin_transaction():
        context.run_migrations()


async def connect() -> None:
    engine = create_async_engine(context.config.get_main_option("sqlalchemy.url", ""))
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(connect())
