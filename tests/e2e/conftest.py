"""The real program in a process of its own, on the embedded model, in an empty folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from qqmem.engine import catalog

MODEL = "qwen2.5-coder-0.5b"


@pytest.fixture(scope="session")
def folder() -> Path:
    """The embedded model; `make e2e` has fetched it."""
    found = catalog.resolve(MODEL)
    assert found, "run: qqmem model pull"
    return found


@dataclass
class Service:
    """`qqmem serve`, started and ended as a person or a supervisor would."""

    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.data.parent / "log").read_text("utf-8")

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self, *, wait: bool = True) -> None:
        self.port = self.port or free_port()
        command = [sys.executable, "-m", "qqmem", "serve", "--data", str(self.data), "--port", str(self.port)]
        with (self.data.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments], stdout=log, stderr=log, env={**os.environ, **self.environment}
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        while True:
            assert self.process
            assert self.process.poll() is None, self.log
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)  # another process: there is nothing else to wait for

    def wait_starter(self) -> None:
        """Until the starter serves, at once after the model."""
        while httpx.get(f"{self.url}/api/system").json().get("release") != "starter":
            time.sleep(0.1)  # another process, as above

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def say(self, text: str, user: str = "1", **more: Any) -> dict[str, Any]:
        body = {"user_id": user, "user_nickname": "小明", "content": text, **more}
        answer = httpx.post(f"{self.url}/api/chat/private", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def messages(self, conversation: str, **query: Any) -> list[dict[str, Any]]:
        page = httpx.get(f"{self.url}/api/conversations/{conversation}/messages", params=query).json()
        return list(page["messages"])

    def exported(self, conversation: str) -> list[dict[str, Any]]:
        text = httpx.get(f"{self.url}/api/conversations/{conversation}/export").text
        return [json.loads(line) for line in text.splitlines()]

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def num_threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def service(tmp_path: Path, folder: Path) -> Iterator[Service]:
    """A service that is not started yet; killed at the end whatever happened."""
    made = Service(tmp_path / "data")
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()
