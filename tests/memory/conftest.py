from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qqmem.db import Database
from qqmem.history import History
from qqmem.memory.store import Store
from qqmem.memory.words import Segmenter


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """One for all tests: its dictionary takes a while to load."""
    return Segmenter()


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path) as db:
        yield db


@pytest.fixture
def history(db: Database) -> History:
    return History(db)


@pytest.fixture
def store(db: Database, segmenter: Segmenter) -> Store:
    return Store(db, segmenter)
