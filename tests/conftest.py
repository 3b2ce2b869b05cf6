"""What every test runs under: nothing may block the event loop, and no test sees the person's own settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test whose event loop calls something that blocks."""
    with blockbuster_ctx("qqmem") as found:
        yield found


@pytest.fixture(autouse=True)
def quiet_loop(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test whose event loop had to log an error of its own: in a callback, or of a task nobody awaited."""
    yield
    records = [record for record in caplog.get_records("call") if record.name == "asyncio"]
    assert not [record.getMessage() for record in records if record.levelno >= logging.ERROR]


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path) -> Iterator[None]:
    """Run in an empty folder, without the person's QQMEM_ variables but the folder of models."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("QQMEM_") and name != "QQMEM_MODELS"]:
        del os.environ[name]
    here = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(here)
    os.environ.clear()
    os.environ.update(before)
