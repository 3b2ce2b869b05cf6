"""The dashboard's own tests, of what of it is logic: `node --test` over tests/dashboard."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "dashboard"


@pytest.mark.timeout(180)
def test_the_dashboard() -> None:
    node = shutil.which("node")
    if node is None and os.environ.get("CI") != "true":
        pytest.skip("node is not installed")
    assert node, "CI needs node (Debian: nodejs)"
    files = sorted(map(str, HERE.glob("*.test.js")))
    assert files
    ended = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=170, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
