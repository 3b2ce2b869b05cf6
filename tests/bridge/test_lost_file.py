"""A bridge whose database is gone, or an old copy: the service knows more than it does."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.bridge.harness import ANN, scene

pytestmark = pytest.mark.parametrize("bench", ["onebot"], indirect=True)
PRIVATE = f"private:{ANN}"


async def test_it_counts_on_above_what_the_service_has(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path / "one") as s:
        await s.napcat.private_message(ANN, "one")
        first = await s.service.wait("message")
        await s.kill()
        s.service.stored[first["seq"] + 10**6] = {}  # it has heard a million more since
        shutil.rmtree(tmp_path / "one")
        await s.service.down()
        await s.start()
        await s.napcat.private_message(ANN, "two")
        await s.napcat.private_message(ANN, "three")
        await s.waiting(2)  # under numbers that the service has already
        await s.service.up()
        await s.service.wait("message", 3)
        two, three = s.service.of("message")[1:]
        assert [two["text"], three["text"]] == ["two", "three"]
        assert [two["seq"], three["seq"]] == [first["seq"] + 10**6 + 1, first["seq"] + 10**6 + 2]
        await s.napcat.private_message(ANN, "four")
        assert (await s.service.wait("message", 4))["seq"] == three["seq"] + 1


async def test_a_reply_that_the_lost_file_had_sent_is_not_sent_again(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path / "one") as s:
        earlier = (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
        await s.service.deliver(1, "sent", chat=PRIVATE, created=earlier)
        told = await s.service.outcome(1)
        await s.kill()
        shutil.rmtree(tmp_path / "one")
        await s.service.down()
        await s.service.up()
        s.service.frames.clear()
        await s.service.deliver(1, "sent", chat=PRIVATE, created=earlier)  # its outcome never came there
        await s.service.deliver(2, "not sent", chat=PRIVATE, created=earlier)
        await s.start()
        assert (await s.service.outcome(1))["message_ids"] == told["message_ids"]
        assert (await s.service.outcome(2))["status"] == "sent"
        assert [one.plain_text for one in s.napcat.sent] == ["sent", "not sent"]
