"""The bench: a stand-in for NapCat that stands beside the project, not in it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

_BENCH = Path(__file__).parents[2] / "../shared/bench/fake_napcat.py"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test whose event loop calls something that blocks."""
    with blockbuster_ctx("qqmem_bridge") as found:
        yield found


@pytest.fixture(scope="session")
def bench() -> Any:
    """The bench as a module; tests that need it are skipped where it is absent."""
    if not _BENCH.is_file():
        pytest.skip("the bench (../shared/bench/fake_napcat.py) is not here")
    spec = importlib.util.spec_from_file_location("fake_napcat", _BENCH.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_napcat"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module
