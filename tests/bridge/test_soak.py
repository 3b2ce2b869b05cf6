"""Everything at once: faults, drops, kills and restarts in the middle of a crowd."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qqmem_bridge.settings import Allow
from tests.bridge.harness import GROUP, Scene, scene

CHATS = 20


async def test_no_message_is_lost_doubled_or_out_of_order(bench: Any, tmp_path: Path) -> None:
    await soak(bench, tmp_path, messages=200, seed=5)


async def soak(bench: Any, folder: Path, *, messages: int, seed: int) -> Counter[str]:
    """Each message that reaches a bridge is stored by the service once and in order, each reply sent at most once.

    Returns how often replies had each outcome.
    """
    chance = random.Random(seed)
    users = tuple(str(20000 + n) for n in range(CHATS))
    async with scene(bench, folder, allow=Allow(users=users, groups=(str(GROUP),))) as s:
        s.napcat.heartbeat = 0
        answering = asyncio.create_task(_answer(s))
        reached: dict[int, list[str]] = defaultdict(list)
        trouble: list[Callable[[], Any]] = [
            lambda: s.napcat.lose_response("send_private_msg"),
            lambda: s.napcat.hang("send_private_msg"),
            lambda: s.napcat.fail("send_private_msg", like="timeout_sent"),
            lambda: s.napcat.fail("send_private_msg", like="timeout"),
            lambda: s.napcat.fail("send_private_msg", like="rich_media"),
            lambda: s.napcat.drop(chance.choice(["abort", "close"])),
            lambda: s.napcat.down(0.05),
            lambda: _again(s, bridge=True),
            lambda: _again(s, bridge=False),
        ]
        for n in range(messages):
            user = chance.randrange(CHATS)
            if chance.random() < 0.15:
                if asyncio.iscoroutine(done := chance.choice(trouble)()):
                    await done
            await s.napcat.wait_connected()
            mid = await s.napcat.private_message(20000 + user, f"m{n}", copies=chance.choice([1, 1, 2]))
            reached[user].append(f"m{n}")
            async with asyncio.timeout(10):  # what nobody has stored yet may be lost by a kill
                while await s.bridge.store.seen(f"private:{20000 + user}", str(mid)) is None:
                    pass
        s.napcat.clear_faults()
        await s.service.changes.until(lambda: len(s.service.stored) >= messages, 30)
        await s.service.changes.until(lambda: not s.service.undelivered, 30)
        answering.cancel()
        stored = [frame for _, frame in sorted(s.service.stored.items())]
        for user, texts in reached.items():
            assert [frame["text"] for frame in stored if frame["conversation"] == f"private:{20000 + user}"] == texts
        outcomes = {frame["delivery_id"]: frame for frame in s.service.of("delivered")}
        sent: dict[str, list[str]] = defaultdict(list)
        for one in s.napcat.sent:
            sent[f"private:{one.target}"].append(one.plain_text)
        for chat, texts in sent.items():
            assert len(texts) == len(set(texts)), chat
            assert texts == sorted(texts, key=lambda text: int(text.removeprefix("re m"))), chat
        arrived = {str(one.message_id) for one in s.napcat.sent}
        assert len(outcomes) == messages
        for told in outcomes.values():
            assert bool(told["message_ids"]) is (told["status"] == "sent")
            assert set(told["message_ids"]) <= arrived
        assert len(s.napcat.sent) <= sum(told["status"] != "failed" for told in outcomes.values())
        assert sum(told["status"] == "sent" for told in outcomes.values()) <= len(s.napcat.sent)
        return Counter(told["status"] for told in outcomes.values())


async def _answer(s: Scene) -> None:
    """A service that has an answer to everything, once."""
    answered: set[int] = set()
    while True:
        for seq, frame in sorted(s.service.stored.items()):
            if seq not in answered:
                answered.add(seq)
                mid, chat = frame["message_id"], frame["conversation"]
                try:
                    await s.service.deliver(seq, f"re {frame['text']}", chat=chat, in_reply_to=[mid])
                except Exception:  # the connection is just being lost: it is kept, and sent again
                    continue
        await s.service.changes.until(lambda: len(s.service.stored) > len(answered), 60)


async def _again(s: Scene, *, bridge: bool) -> None:
    if bridge:
        await s.kill()
        await s.start()
    else:
        await s.service.down()
        await s.service.up()
