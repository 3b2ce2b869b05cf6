"""Bridges, on real sockets. A crash is a service that begins from the files as another has them at that moment."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from qqmem.api.bridge import REPLACED
from tests.api.conftest import Service, Stage, make_settings, running
from tests.api.far_end import PRIVATE, far_end, image, texts
from tests.api.test_live import watching


def execute(data: Path, statement: str) -> None:
    connection = sqlite3.connect(data / "qqmem.db")
    with connection:
        connection.execute(statement)
    connection.close()


async def test_a_message_is_acknowledged_and_answered_by_a_delivery(service: Service) -> None:
    async with far_end(service) as end:
        assert end.welcome == {"type": "welcome", "protocol": 1, "resume_from": 0}
        await end.say(1, message_id=55)
        delivery = await end.until("delivery")
        ack, started, ended = end.seen[:3]
    assert ack == {"type": "ack", "seq": 1}
    turn = {"type": "turn", "conversation": PRIVATE, "message_ids": ["55"]}
    assert (started, ended) == (turn | {"state": "started"}, turn | {"state": "ended", "outcome": "replied"})
    assert delivery.pop("created")
    assert delivery == {
        "type": "delivery",
        "delivery_id": 1,
        "conversation": PRIVATE,
        "in_reply_to": ["55"],
        "parts": ["好的。"],
        "actions": [],
    }


async def test_a_reply_comes_in_paragraphs_with_its_actions(tmp_path: Path) -> None:
    reply = '一\n二\n\n \n```\na\n\nb\n```\n\n三<action>{"type": "POKE", "user_id": "10001"}</action>'
    async with running(make_settings(tmp_path), Stage(lambda _: reply)) as service, far_end(service) as end:
        await end.say(1)
        delivery = await end.until("delivery")
    assert delivery["parts"] == ["一\n二", "```\na\n\nb\n```", "三"]
    assert [(action["type"], action["user_id"]) for action in delivery["actions"]] == [("POKE", "10001")]


async def test_what_was_not_delivered_is_sent_again_and_what_was_is_not(service: Service) -> None:
    async with far_end(service) as end:
        await end.say(1)
        first = await end.until("delivery")
        await end.say(2)
        second = await end.until("delivery")
    async with far_end(service) as end:
        assert end.welcome["resume_from"] == 2
        assert [await end.until("delivery"), await end.until("delivery")] == [first, second]
        await end.delivered(first, "7001")
    async with far_end(service) as end:
        assert await end.until("delivery") == second
        await end.delivered(second, status="unknown")
        await end.delivered(first, "7009", status="failed")  # told again: nothing changes
    async with far_end(service) as end:
        await end.say(3)
        assert (await end.until("delivery"))["in_reply_to"] == ["300"]


async def test_a_reply_that_came_while_no_bridge_was_there_is_sent_to_the_next(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        async with far_end(service) as end:
            await end.say(1)
            await service.stage.begun()
        await service.left()
        service.stage.go()
        async with far_end(service) as end:
            assert (await end.until("delivery"))["in_reply_to"] == ["100"]


async def test_a_reply_survives_a_crash_before_it_is_sent(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "one"), Stage()) as service:
        async with far_end(service) as end:
            await end.say(1)
            sent = await end.until("delivery")
        data = image(tmp_path / "one", tmp_path / "two")
    async with running(make_settings(data), Stage(held=True)) as service, far_end(service) as end:
        assert end.welcome["resume_from"] == 1
        assert await end.until("delivery") == sent


async def test_a_reply_that_a_crash_broke_off_is_written_anew(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "one"), Stage(held=True)) as service, far_end(service) as end:
        await end.say(1)
        await service.stage.begun()
        data = image(tmp_path / "one", tmp_path / "two")
    async with running(make_settings(data), Stage()) as service, far_end(service) as end:
        assert (await end.until("delivery"))["in_reply_to"] == ["100"]
        assert await texts(service) == ["你好", "好的。"]
        assert await service.outcomes() == ["replied"]


async def test_a_reply_that_the_end_of_the_service_broke_off_is_written_anew(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, server={"drain_seconds": 0.0})
    async with running(settings, Stage(held=True)) as service, far_end(service) as end:
        await end.say(1)
        await service.stage.begun()
        service.server.should_exit = True
        assert await end.closed() == 1012
    async with running(settings, Stage()) as service, far_end(service) as end:
        assert (await end.until("delivery"))["in_reply_to"] == ["100"]


async def test_what_a_person_stopped_is_not_begun_again(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "one"), Stage(held=True)) as service, far_end(service) as end:
        await end.say(1)
        await service.stage.begun()
        await end.send("cancel", seq=2, conversation=PRIVATE)
        await end.until("ack", seq=2)
        assert await service.outcomes() == ["cancelled"]
        data = image(tmp_path / "one", tmp_path / "two")
    async with running(make_settings(data), Stage()) as service, far_end(service) as end:
        assert end.welcome["resume_from"] == 2
        await end.say(3)
        assert (await end.until("delivery"))["in_reply_to"] == ["300"]


async def test_what_a_person_stopped_before_it_began_is_not_begun_again(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "one", chat={"merge_window": 30.0})
    async with running(settings, Stage()) as service, far_end(service) as end:
        await end.say(1)
        await end.send("cancel", seq=2, conversation=PRIVATE)
        await end.until("ack", seq=2)
        data = image(tmp_path / "one", tmp_path / "two")
    async with running(make_settings(data), Stage()) as service, far_end(service) as end:
        await end.say(3)
        assert (await end.until("delivery"))["in_reply_to"] == ["300"]


async def test_a_message_that_waited_too_long_is_not_answered_after_a_crash(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "one"), Stage(held=True)) as service, far_end(service) as end:
        await end.say(1)
        await service.stage.begun()
        data = image(tmp_path / "one", tmp_path / "two")
    execute(data, "UPDATE message SET stored_at = datetime('now', '-11 minutes')")
    async with running(make_settings(data), Stage()) as service, far_end(service) as end:
        await end.say(2)
        assert (await end.until("delivery"))["in_reply_to"] == ["200"]


async def test_what_comes_twice_is_acknowledged_and_nothing_else(service: Service) -> None:
    async with far_end(service) as end:
        await end.say(1)
        await end.until("delivery")
        await end.say(1)
        await end.until("ack", seq=1)
        await end.say(2, message_id="100")
        await end.until("ack", seq=2)
    async with far_end(service) as end:
        assert end.welcome["resume_from"] == 2
        await end.say(1)
        await end.until("ack", seq=1)
    assert await service.outcomes() == ["replied"]
    assert await texts(service) == ["你好", "好的。"]


async def test_a_bridge_that_has_lost_its_inbox_is_heard(service: Service) -> None:
    async with far_end(service) as end:
        await end.say(50)
        await end.until("delivery")
    async with far_end(service) as end:
        await end.say(1, message_id="new")
        assert (await end.until("delivery", in_reply_to=["new"]))["delivery_id"] == 2
    async with far_end(service) as end:
        assert end.welcome["resume_from"] == 1


async def test_messages_of_a_chat_are_stored_and_answered_in_order(service: Service) -> None:
    async with far_end(service) as end:
        for n in range(1, 41):
            await end.say(n, f"第{n}条", f"private:{n % 4}")
        await end.until("ack", seq=40)
        assert [frame["seq"] for frame in end.all("ack")] == list(range(1, 41))
        while {f"{n}00" for n in range(37, 41)} - {one for f in end.all("delivery") for one in f["in_reply_to"]}:
            await end.until("delivery")
    ids = [frame["delivery_id"] for frame in end.all("delivery")]
    assert ids == sorted(set(ids))
    for chat in range(4):
        messages, _ = await service.stored(f"private:{chat}")
        said = [message.text for message in messages if message.role == "user"]
        assert said == [f"第{n}条" for n in range(1, 41) if n % 4 == chat]


async def test_what_is_too_old_is_dropped_and_reported(service: Service, tmp_path: Path) -> None:
    async with far_end(service) as end:
        await end.say(1)
        old = await end.until("delivery")
        await end.say(2)
        new = await end.until("delivery")
    execute(tmp_path, "UPDATE delivery SET created_at = datetime('now', '-11 minutes') WHERE id = 1")
    async with watching(service) as watch, far_end(service) as end:
        dropped = await watch.until("bridge.delivery")
        assert (dropped["delivery_id"], dropped["status"], dropped["reason"]) == (1, "failed", "too old")
        assert await end.until("delivery") == new
        await end.delivered(old, "7001")  # it had been sent after all
        assert (await watch.until("bridge.delivery"))["status"] == "sent"
    assert (await service.state["history"].find(PRIVATE, "7001")) is not None


async def test_a_second_connection_of_a_bridge_closes_the_first(service: Service) -> None:
    async with far_end(service) as first, far_end(service, "office") as other, far_end(service) as second:
        assert await first.closed() == REPLACED
        await second.say(1)
        await second.until("delivery")
        await other.settled()
        assert other.all("delivery") == []


async def test_a_reply_goes_to_the_bridge_that_brought_the_message_in(service: Service) -> None:
    async with far_end(service) as home, far_end(service, "office") as office:
        await office.say(1)
        await office.until("delivery")
        assert (await service.private("你好")).json()["reply"] == "好的。"  # of the same chat, by another door
        await office.say(2)
        await office.until("delivery", in_reply_to=["200"])
        await home.settled()
    assert (home.seen, len(office.all("delivery"))) == ([{"type": "pong"}], 2)


async def test_a_bridge_tells_of_nothing_but_its_own_deliveries(service: Service) -> None:
    async with far_end(service) as home, far_end(service, "office") as office:
        await office.say(1)
        delivery = await office.until("delivery")
        await home.delivered(delivery, "7001")
    async with far_end(service, "office") as office:
        assert await office.until("delivery") == delivery
