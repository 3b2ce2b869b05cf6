"""Whatever drops, loses, doubles or mutes: exactly one message arrives, or none and a reason."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from qqmem_bridge.errors import Refused
from qqmem_bridge.settings import Merge
from tests.bridge.harness import ANN, GROUP, scene

PRIVATE = f"private:{ANN}"


@pytest.mark.parametrize(
    ("fault", "status", "arrived"),
    [
        (lambda nc: nc.fail("send_private_msg", like="timeout_sent"), "sent", 1),
        (lambda nc: nc.lose_response("send_private_msg"), "sent", 1),
        (lambda nc: nc.fail("send_private_msg", like="timeout"), "unknown", 0),
        (lambda nc: nc.hang("send_private_msg"), "unknown", 0),
        (lambda nc: nc.fail("send_private_msg", like="rich_media"), "failed", 0),
        (lambda nc: nc.slow("send_private_msg", 0.05), "sent", 1),
    ],
)
async def test_a_message_arrives_once_or_not(bench: Any, tmp_path: Path, fault: Any, status: str, arrived: int) -> None:
    async with scene(bench, tmp_path) as s:
        await s.service.deliver(1, "一样的话", chat=PRIVATE)  # the history holds the same words already
        await s.service.outcome(1)
        fault(s.napcat)
        await s.service.deliver(2, "一样的话", chat=PRIVATE)
        told = await s.service.outcome(2)
        assert told["status"] == status
        assert [str(one.message_id) for one in s.napcat.sent[1:]] == told["message_ids"]
        assert len(s.napcat.sent) == 1 + arrived
        assert bool(told.get("reason")) is (status != "sent")
        await s.service.deliver(3, "weiter", chat=PRIVATE)
        assert (await s.service.outcome(3))["status"] == "sent"


@pytest.mark.parametrize(
    ("of_bot", "age", "status"), [(True, 100, "sent"), (True, 200, "unknown"), (False, 0, "unknown")]
)
async def test_a_message_is_found_by_who_said_it_and_when(
    bench: Any, tmp_path: Path, of_bot: bool, age: float, status: str
) -> None:
    async with scene(bench, tmp_path) as s:
        user, me = s.napcat.self_id if of_bot else ANN, s.napcat.self_id
        said = {"user_id": user, "self_id": me, "message_id": 77, "time": time.time() - age, "message": "hi"}
        s.napcat.custom["get_friend_msg_history"] = lambda _: {"messages": [said]}
        s.napcat.fail("send_private_msg", like="timeout")
        await s.service.deliver(1, "hi", chat=PRIVATE, created="2100-01-01T00:00:00+00:00")
        told = await s.service.outcome(1)
        assert (told["status"], told["message_ids"]) == (status, ["77"] if status == "sent" else [])


@pytest.mark.parametrize("how", ["abort", "close"])
@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_drop_while_sending(bench: Any, tmp_path: Path, how: str, carried_out: bool) -> None:
    async with scene(bench, tmp_path) as s:
        (s.napcat.lose_response if carried_out else s.napcat.hang)("send_group_msg")
        await s.service.deliver(1, "hi")
        await s.napcat.wait_call("send_group_msg")
        await s.napcat.drop(how)
        told = await s.service.outcome(1)
        assert told["status"] == ("sent" if carried_out else "unknown")
        assert len(s.napcat.sent) == int(carried_out)
        assert len([call for call in s.napcat.calls if call.action == "send_group_msg"]) == 1


async def test_a_reply_waits_a_minute_for_napcat(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        away = asyncio.create_task(s.napcat.down(60 / s.clock.speed, "close"))
        await s.napcat.wait(lambda: not s.napcat.connected)
        await s.service.deliver(1, "hi")
        assert (await s.service.outcome(1))["status"] == "sent"
        await away
        assert len(s.napcat.sent) == 1


async def test_a_connection_that_dies_in_silence(bench: Any, tmp_path: Path) -> None:
    """The message arrived; neither its answer nor the history can be had before the silence is noticed."""
    async with scene(bench, tmp_path) as s:
        s.napcat.stall()
        await s.service.deliver(1, "hi")
        told = await s.service.outcome(1)
        assert (told["status"], told["message_ids"]) == ("unknown", [])
        assert told["reason"]
        await s.napcat.wait(lambda: s.napcat.connections_total == 2)
        s.napcat.stall(False)
        await s.service.deliver(2, "there")
        assert (await s.service.outcome(2))["status"] == "sent"
        assert [one.plain_text for one in s.napcat.sent] == ["hi", "there"]


async def test_a_group_that_rested_is_spoken_to_again_in_time(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        ban = {
            "post_type": "notice",
            "notice_type": "group_ban",
            "sub_type": "ban",
            "group_id": GROUP,
            "operator_id": 1,
        }
        await s.napcat.inject({**ban, "user_id": s.napcat.self_id, "duration": 60})
        await s.service.wait("notice")
        await s.service.deliver(1, "hi")
        assert (await s.service.outcome(1))["reason"] == "muted"
        s.clock.ahead = 61
        s.napcat.fail("send_group_msg", times=3, like="timeout")
        for n in (2, 3, 4, 5):
            await s.service.deliver(n, f"hi {n}")
        assert [(await s.service.outcome(n))["status"] for n in (2, 3, 4, 5)] == ["unknown"] * 3 + ["failed"]
        s.clock.ahead += 1801
        await s.service.deliver(6, "hi 6")
        assert (await s.service.outcome(6))["status"] == "sent"
        assert len(s.napcat.sent) == 1


async def test_a_bridge_killed_while_sending_looks_before_it_speaks(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        s.napcat.lose_response("send_group_msg")
        await s.service.deliver(1, ["eins", "zwei"])
        await s.napcat.wait_sent(group_id=GROUP)
        await s.kill()
        await s.start()
        told = await s.service.outcome(1)
        assert told["status"] == "sent"
        assert [one.plain_text for one in s.napcat.sent] == ["eins", "zwei"]
        assert told["message_ids"] == [str(one.message_id) for one in s.napcat.sent]


async def test_a_bridge_killed_before_sending_sends(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.go_down()
        await s.service.deliver(1, "hi")
        await s.service.changes.until(lambda: s.bridge.counters["deliveries"])
        await s.kill()
        await s.napcat.go_up()
        await s.start()
        assert (await s.service.outcome(1))["status"] == "sent"
        assert len(s.napcat.sent) == 1


async def test_a_reply_that_comes_again_is_told_again_and_not_sent_again(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.service.deliver(1, "hi")
        first = await s.service.outcome(1)
        while await s.bridge.store.get("last_reported") != "1":
            pass
        await s.kill()
        await s.service.deliver(1, "hi", created="2026-11-23T08:00:00.5+08:00")  # the same moment, spelled otherwise
        await s.start()
        assert s.service.hellos[-1]["last_acked"] == 1
        assert await s.service.wait("delivered", 2) == first
        assert len(s.napcat.sent) == 1
        await s.service.deliver(1, "of another service", created="2026-12-01T00:00:00Z")
        await s.service.wait("delivered", 3)
        assert len(s.napcat.sent) == 2


async def test_messages_wait_for_the_service(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        s.service.acking = False
        await s.napcat.private_message(ANN, "one")
        await s.service.wait("message")
        await s.service.down()
        await s.napcat.private_message(ANN, "two")
        await s.waiting(2)
        await s.kill()
        s.service.acking = True
        await s.service.up()
        await s.start()
        await s.napcat.private_message(ANN, "three")
        await s.service.changes.until(lambda: len(s.service.stored) >= 3)
        stored = [frame["text"] for _, frame in sorted(s.service.stored.items())]
        assert stored == ["one", "two", "three"]
        seqs = [frame["seq"] for frame in s.service.of("message") if frame["text"] == "one"]
        assert len(seqs) == 2
        assert len(set(seqs)) == 1


async def test_what_waited_too_long_is_only_context(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, start=False) as s:
        await s.service.down()
        await s.start()
        await s.napcat.private_message(ANN, "old")
        await s.waiting(1)
        s.clock.ahead = 601
        await s.napcat.private_message(ANN, "new")
        await s.service.up()
        await s.service.wait("message", 2)
        assert [frame.get("context_only", False) for frame in s.service.of("message")] == [True, False]


async def test_a_queue_that_overflows_loses_the_oldest_and_says_so_once(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, start=False, merge=Merge(quiet=0, longest=0, most=1)) as s:
        await s.start()
        mid = await s.napcat.private_message(ANN, "oops")
        await s.service.wait("message")
        s.service.frames.clear()
        await s.service.down()
        await s.napcat.recall(mid)
        for n in range(205):
            await s.napcat.private_message(ANN, f"{n}")
        assert "稍后再试" in (await s.napcat.wait_sent(user_id=ANN)).plain_text
        await s.service.up()
        await s.service.changes.until(lambda: s.service.frames and s.service.frames[-1].get("text") == "204")
        assert s.service.frames[0]["message_id"] == str(mid)  # that it was taken back is not lost
        assert [frame["text"] for frame in s.service.of("message")] == [f"{n}" for n in range(5, 205)]
        assert len(s.napcat.sent) == 1


async def test_a_reply_that_waited_too_long_is_not_sent(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.go_down()
        await s.service.deliver(1, "hi")
        await s.service.changes.until(lambda: s.bridge.counters["deliveries"])
        s.clock.ahead = 601
        told = await s.service.outcome(1)
        assert (told["status"], told["reason"]) == ("failed", "too old")


async def test_a_service_that_falls_silent_is_left(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        before = s.service.socket
        assert before is not None
        before.transport.pause_reading()
        await s.service.changes.until(lambda: len(s.service.hellos) == 2)
        await s.napcat.private_message(ANN, "hi")
        await s.service.wait("message")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(4409, "Another bridge named qq"), (4401, "QQMEM_BRIDGE_TOKEN"), (1008, "QQMEM_BRIDGE_TOKEN")],
)
async def test_a_service_that_sends_it_away(bench: Any, tmp_path: Path, code: int, sentence: str) -> None:
    async with scene(bench, tmp_path) as s:
        assert s.service.socket is not None
        assert s.running is not None
        await s.service.socket.close(code)
        with pytest.raises(Refused, match=sentence):
            await s.running


async def test_a_wrong_token_of_the_service_ends_it(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path, start=False) as s:
        s.service.token = "another-token"
        starting = asyncio.create_task(s.start())
        await s.napcat.wait_connected()
        assert s.running is not None
        with pytest.raises(Refused, match="QQMEM_BRIDGE_TOKEN"):
            await s.running
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
