"""The bench: a stand-in for NapCat that stands beside the project, not in it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from qqmem_bridge.ncatbot import imported

_BENCH = Path(__file__).parents[2] / "../shared/bench/fake_napcat.py"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test whose event loop calls something that blocks."""
    with blockbuster_ctx("qqmem_bridge") as found:
        yield found


@pytest.fixture(scope="session", params=["onebot", "ncatbot"])
def bench(request: pytest.FixtureRequest) -> Any:
    """The bench as a module, once for each transport; `transport` is the one that a test is to use.

    Tests that need the bench are skipped where it is absent, and those of ncatbot where that is.
    """
    if not _BENCH.is_file():
        pytest.skip("the bench (../shared/bench/fake_napcat.py) is not here")
    if request.param == "ncatbot":
        pytest.importorskip("ncatbot")
        imported()  # reads files, which a test's event loop must not
    spec = importlib.util.spec_from_file_location("fake_napcat", _BENCH.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_napcat"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    module.transport = request.param  # type: ignore[attr-defined]
    return module
