"""`qqmem serve` on the embedded model: chats, streams, is interrupted, killed, stopped, and misused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e

LONG = "请写一篇五百字的作文，题目是《大海》，写得详细一点。"


@pytest.fixture
def service(service: Service) -> Service:
    """One that answers what it deems likeliest: drawn, a reply to LONG is short now and then, and not to be stopped."""
    service.environment["QQMEM_GENERATION__TEMPERATURE"] = "0"
    return service


def chinese(text: str) -> bool:
    return sum("\u4e00" <= char <= "\u9fff" for char in text) >= 2


def test_a_stranger_gets_a_sensible_answer(service: Service) -> None:
    service.start()
    service.wait_starter()
    answer = service.say("你好，你叫什么名字？")
    assert answer["status"] == "success"
    assert answer["should_reply"]
    assert chinese(answer["reply"])
    assert "小忆" in answer["reply"]
    assert httpx.get(f"{service.url}/health").json()["status"] == "ok"
    assert "qqmem_turns_total" in httpx.get(f"{service.url}/metrics").text
    assert service.end() == 0


def test_the_terminal_chat_streams_and_stops(service: Service) -> None:
    """A person's terminal: a question, its answer, Ctrl-C in a long reply, and Ctrl-D."""
    service.start()
    service.wait_starter()
    with terminal("chat", "--url", f"ws://127.0.0.1:{service.port}/ws/chat") as (keyboard, chat):
        read_until(keyboard, "你 > ")
        os.write(keyboard, "你好，你叫什么名字？\n".encode())
        assert "小忆" in read_until(keyboard, "你 > ", after="她 > ")
        os.write(keyboard, f"{LONG}\n".encode())
        read_until(keyboard, "，", after="她 > ")
        chat.send_signal(signal.SIGINT)
        assert "stopped" in read_until(keyboard, "你 > ")
        assert left(keyboard, chat) == 0
    outcomes = [row["outcome"] for row in service.exported("private:terminal") if "outcome" in row]
    assert outcomes == ["replied", "cancelled"]


def left(keyboard: int, chat: subprocess.Popen[bytes]) -> int:
    """Press Ctrl-D until it is obeyed: one that comes just before the prompt reads keys is lost, as for a person."""
    while True:
        with suppress(OSError):  # it is gone already, and its terminal with it
            os.write(keyboard, b"\x04")
        try:
            return chat.wait(1)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def terminal(*arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A command in a terminal without colours: our end of it, and the process."""
    keyboard, screen = os.openpty()
    # Where tests run behind a shell's `&`, Ctrl-C is ignored, and so it would be by what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "qqmem", *arguments],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"},
    )
    os.close(screen)
    signal.signal(signal.SIGINT, before)
    try:
        yield keyboard, process
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)


def read_until(keyboard: int, mark: str, after: str = "") -> str:
    """What appears on a terminal up to a mark, not counting a mark before `after`."""
    shown = b""
    while True:
        text = shown.decode("utf-8", "ignore")
        if mark in (text.partition(after)[2] if after else text):
            return text
        shown += os.read(keyboard, 4096)


async def test_a_newer_message_interrupts(service: Service) -> None:
    service.start()
    async with connect(f"ws://127.0.0.1:{service.port}/ws/chat") as socket_:
        await send(socket_, LONG)
        first = await until(socket_, lambda frame: frame["type"] == "token")
        await send(socket_, "算了，只说“好的”两个字就行。")
        end = await until(socket_, lambda frame: frame["type"] == "turn.end")
        assert (end["turn"], end["outcome"]) == (first["turn"], "superseded")
        start = await until(socket_, lambda frame: frame["type"] == "turn.start")
        assert len(start["messages"]) == 2, "the new reply answers both"
        end = await until(socket_, lambda frame: frame["type"] == "turn.end")
        assert end["outcome"] == "replied"
        assert end["usage"]["cached"] > 0
    service.end()


async def send(connection: ClientConnection, text: str) -> None:
    frame = {"type": "message", "conversation": "private:7", "sender": {"id": "7", "name": "小红"}, "text": text}
    await connection.send(json.dumps(frame))


async def until(connection: ClientConnection, wanted: Any) -> dict[str, Any]:
    while True:
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(connection.recv(), 60))
        if wanted(frame):
            return frame


async def test_kill_in_the_middle_of_a_reply_loses_nothing(service: Service) -> None:
    service.start()
    assert service.say("我叫王小明，住在杭州。", user="7")["status"] == "success"
    async with connect(f"ws://127.0.0.1:{service.port}/ws/chat") as socket_:
        await send(socket_, LONG)
        await until(socket_, lambda frame: frame["type"] == "token")
        service.end(signal.SIGKILL)
    service.start()
    rows = service.exported("private:7")
    assert [row["text"] for row in rows if row.get("role") == "user"] == ["我叫王小明，住在杭州。", LONG]
    assert [row["outcome"] for row in rows if "outcome" in row] == ["replied", "interrupted"]
    assert service.say("你好，还在吗？", user="7")["should_reply"]
    service.end()


def test_sigterm_lets_a_reply_end_and_exits_with_zero(service: Service) -> None:
    service.environment |= {"QQMEM_GENERATION__MAX_NEW_TOKENS": "60"}
    service.start()
    body = {"user_id": "9", "content": LONG}
    with httpx.stream("POST", f"{service.url}/api/chat/private?stream=true", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"token"' in line)
        assert service.process
        service.process.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert any('"replied"' in line for line in rest)
    assert service.process.wait(30) == 0


def test_sigterm_cancels_what_takes_too_long_and_stores_it(service: Service) -> None:
    service.environment |= {"QQMEM_SERVER__DRAIN_SECONDS": "0.5"}
    service.start()
    with httpx.stream(
        "POST", f"{service.url}/api/chat/private?stream=true", json={"user_id": "9", "content": LONG}
    ) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"token"' in line)
        assert service.end() == 0
    service.start()
    assert [row["outcome"] for row in service.exported("private:9") if "outcome" in row] == ["cancelled"]
    service.end()


# ---- bad input ---------------------------------------------------------------------------------------------------


def refused(service: Service) -> tuple[int, str]:
    """Exit code and last line of a service that does not start."""
    service.start(wait=False)
    assert service.process
    code = service.process.wait(60)
    service.process = None
    assert "Traceback" not in service.log
    return code, service.log.strip().splitlines()[-1]


def test_a_taken_port_is_one_sentence(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service.port = int(taken.getsockname()[1])
        code, line = refused(service)
    assert code == 2
    assert "choose another with --port" in line


def test_an_unknown_setting_is_one_sentence(service: Service, tmp_path: Path) -> None:
    settings = tmp_path / "my.yaml"
    settings.write_text("chat: {group_polcy: auto}\n")
    service.arguments = ("--config", str(settings))
    assert refused(service) == (2, "qqmem: There is no setting chat.group_polcy. Did you mean chat.group_policy?")


def test_an_open_address_without_a_token_is_refused(service: Service) -> None:
    service.arguments = ("--host", "0.0.0.0")
    code, line = refused(service)
    assert code == 2
    assert "QQMEM_TOKEN" in line


def test_a_broken_model_folder_is_one_sentence(service: Service, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((folder / name).read_bytes())
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    service.arguments = ("--model", str(broken))
    code, _ = refused(service)
    assert code == 1
    assert f"The model in {broken} cannot be loaded" in service.log


def test_an_unwritable_data_folder_is_one_sentence(service: Service, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    blocked.chmod(stat.S_IRUSR)
    service.arguments = ("--data", str(blocked / "data"))
    code, line = refused(service)
    assert code in (1, 2)
    assert "choose another with --data" in line


def test_a_newer_database_is_refused(service: Service) -> None:
    import sqlite3

    service.start()
    service.end()
    with sqlite3.connect(service.data / "qqmem.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    code, line = refused(service)
    assert code in (1, 2)
    assert "newer qqmem" in line
