"""A real group of five people, 510 messages, replayed through the running service."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e

CHAT = Path(__file__).parents[3] / "shared/data/group-chat-zh/team_chat_zh.json"


@pytest.mark.skipif(not CHAT.exists(), reason="the public group chat is not beside this checkout")
async def test_a_group_chat_is_stored_whole_and_answered(service: Service) -> None:
    """Every tenth message is addressed to the bot; others come in meanwhile, as in a real group."""
    service.environment = {"QQMEM_GENERATION__MAX_NEW_TOKENS": "24", "QQMEM_SERVER__RATE_LIMIT": "0"}
    service.start()
    said = json.loads(CHAT.read_text("utf-8"))["conversation_list"]
    for number, message in enumerate(said):
        message["message_id"] = f"m{number}"  # the file has one id twice, for two messages
    assert len(said) == 510
    ends: list[dict[str, Any]] = []
    memory: list[float] = []
    threads = service.num_threads()
    async with connect(f"ws://127.0.0.1:{service.port}/ws/chat") as socket:
        for number, message in enumerate(said):
            addressed = number % 10 == 9
            await socket.send(json.dumps(frame(message, addressed)))
            ends += await read(socket, message["message_id"], until_end=addressed)
            if number % 50 == 49:
                memory.append(service.memory_mb())
    rows = service.exported("group:team")
    stored = [row for row in rows if row.get("role") == "user"]
    assert [row["message_id"] for row in stored] == [message["message_id"] for message in said]
    assert [row["text"] for row in stored] == [message["content"] for message in said]
    turns = [row for row in rows if "outcome" in row]
    assert [turn["outcome"] for turn in turns] == ["replied"] * 51
    assert sum(row.get("role") == "assistant" for row in rows) == 51
    assert sum(end["outcome"] == "replied" for end in ends) == 51
    assert max(memory) < memory[4] * 1.1, f"memory grows: {memory}"
    # The pool of threads that serve files and prompts is bounded; nothing may grow with the number of messages.
    assert service.num_threads() <= threads + 8
    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{service.url}/metrics")).text
    gauges = {line.split()[0]: line.split()[1] for line in metrics.splitlines() if not line.startswith("#")}
    # Memories are made in the background meanwhile, one request at a time.
    assert float(gauges["qqmem_engine_running"]) <= 1
    assert service.end() == 0


def frame(message: dict[str, Any], addressed: bool) -> dict[str, Any]:
    return {
        "type": "message",
        "conversation": "group:team",
        "message_id": message["message_id"],
        "sender": {"id": message["sender"], "name": message["sender_name"]},
        "text": message["content"],
        "time": message["create_time"],
        "addressed": addressed,
    }


async def read(socket: Any, message_id: str, *, until_end: bool) -> list[dict[str, Any]]:
    """Frames up to this message being stored, or, for one that is answered, the turn's end. Returns the ends."""
    ends, accepted = [], False
    while True:
        got = json.loads(await asyncio.wait_for(socket.recv(), 120))
        assert got["type"] != "error", got
        accepted |= got["type"] == "accepted" and got["message_id"] == message_id
        if got["type"] == "turn.end":
            ends.append(got)
        if accepted and (not until_end or any(end["outcome"] == "replied" for end in ends)):
            return ends
