"""Those who watch, on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from qqmem.api.hub import MOST_WAITING
from qqmem.memory.types import Change
from tests.api.conftest import Service, Stage, listener, make_settings, running
from tests.api.dashboard import Dashboard


class Watch:
    """A dashboard's end of /ws/live."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.dashboard = Dashboard()

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next frame of this type that has these fields."""
        while True:
            seen = len(self.dashboard.frames)
            batch = await self.connection.recv()
            assert isinstance(batch, str)
            self.dashboard.take(batch)
            for frame in self.dashboard.frames[seen:]:
                if frame["type"] == kind and fields.items() <= frame.items():
                    return frame

    async def drawn(self, is_so: Callable[[Dashboard], bool]) -> None:
        while not is_so(self.dashboard):
            self.dashboard.take(str(await self.connection.recv()))

    async def closed(self) -> tuple[int | None, str | None]:
        with pytest.raises(ConnectionClosed):
            await self.until("never")
        return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def watching(service: Service, **options: Any) -> AsyncIterator[Watch]:
    """After the first snapshot."""
    async with connect(f"ws://127.0.0.1:{service.port}/ws/live", **options) as connection:
        watch = Watch(connection)
        await watch.until("snapshot")
        yield watch


async def test_a_watcher_sees_the_turns_of_all_conversations(tmp_path: Path) -> None:
    script = Stage(lambda prompt: "想想</think>" + ("甲好" if "我是甲" in prompt else "乙好"), thinks=True)
    async with running(make_settings(tmp_path), script) as service, watching(service) as watch:
        await asyncio.gather(service.private("我是甲", user=1), service.private("我是乙", user=2))
        await watch.drawn(lambda board: sum(frame["type"] == "turn.end" for frame in board.frames) == 2)
    frames = watch.dashboard.frames
    for user, text, reply in (("1", "我是甲", "甲好"), ("2", "我是乙", "乙好")):
        mine = [frame for frame in frames if frame.get("conversation") == f"private:{user}"]
        assert [frame["type"] for frame in mine if frame["type"] != "token"] == ["message", "turn.start", "turn.end"]
        message, start, end = (frame for frame in mine if frame["type"] != "token")
        assert (message["text"], message["sender"]["id"]) == (text, user)
        assert start["messages"] == [message["id"]]
        assert (end["turn"], end["outcome"], end["reply"]) == (start["turn"], "replied", reply)
        tokens = [(frame["channel"], frame["text"]) for frame in mine if frame["type"] == "token"]
        for channel, whole in (("think", "想想"), ("reply", reply)):
            assert "".join(text for of, text in tokens if of == channel) == whole


async def test_who_comes_in_the_middle_goes_on_from_there(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(lambda _: "一二三四五", held=True)) as service:
        async with watching(service) as first, service.talk() as talk:
            await talk.say("数到五", message_id="m")
            service.stage.go(3)
            await first.drawn(lambda board: board.texts == {1: {"reply": "一二三"}})
            async with watching(service) as second:
                assert second.dashboard.texts == {1: {"reply": "一二三"}}
                assert second.dashboard.turns[1]["messages"] == [1]
                service.stage.go(1)
                await second.drawn(lambda board: board.texts == {1: {"reply": "一二三四"}})
                service.stage.go()
                end = await second.until("turn.end")
                assert (end["turn"], end["reply"], second.dashboard.turns) == (1, "一二三四五", {})


async def test_a_duplicate_is_not_told_and_a_silent_end_is(service: Service) -> None:
    async with watching(service) as watch:
        for _ in range(2):
            await service.private("你好", message_id="same")
        await service.private("/帮助")
        while len([frame for frame in watch.dashboard.frames if frame["type"] == "turn.end"]) < 3:
            await watch.until("turn.end")
    kinds = [frame["type"] for frame in watch.dashboard.frames]
    assert kinds.count("message") == 1
    ends = [(frame.get("turn"), frame["outcome"]) for frame in watch.dashboard.frames if frame["type"] == "turn.end"]
    assert ends == [(1, "replied"), (None, "no_reply"), (None, "replied")]


async def test_memories_are_told_when_they_come_change_and_go(service: Service) -> None:
    async with watching(service) as watch:
        body = {"text": "小明对花生过敏", "scope": "user:10001"}
        id = (await service.http.post("/api/memories", json=body)).json()["id"]
        assert (await watch.until("memory.added"))["scope"] == "user:10001"
        await service.http.patch(f"/api/memories/{id}", json={"text": "小明对虾过敏"})
        assert (await watch.until("memory.changed"))["ids"] == [id]
        await service.http.delete(f"/api/memories/{id}")
        assert (await watch.until("memory.forgotten")) == {"type": "memory.forgotten", "ids": [id], "count": 1}


async def test_a_training_run_is_told_and_is_in_the_next_snapshot(service: Service) -> None:
    async with watching(service) as watch:
        await service.http.post("/api/memories", json={"text": "小明对花生过敏", "scope": "user:10001"})
        answer = await service.http.post("/api/training/trigger")
        assert answer.status_code == 200
        await watch.drawn(lambda board: board.frames[-1].get("run", {}).get("state") == "failed")
        states = [frame["run"]["state"] for frame in watch.dashboard.frames if frame["type"] == "training.run"]
        assert set(states) == {"running", "failed"}, "the model of this test lies nowhere"
    async with watching(service) as watch:
        assert watch.dashboard.frames[0]["run"]["id"] == answer.json()["run"]["id"]
        assert watch.dashboard.frames[0]["run"]["state"] == "failed"


async def test_the_newest_run_is_known_after_a_restart(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage()) as service:
        await service.http.post("/api/memories", json={"text": "小明对花生过敏", "scope": "user:10001"})
        await service.http.post("/api/training/trigger")
        await service.state["training"].learn.wait()
    async with running(make_settings(tmp_path), Stage()) as service, watching(service) as watch:
        assert watch.dashboard.frames[0]["run"]["state"] == "failed"


async def test_who_is_slow_is_told_so_and_drawn_anew(service: Service) -> None:
    hub = service.state["hub"]
    async with watching(service) as watch:
        for id in range(MOST_WAITING + 5):  # the loop does not come round to sending meanwhile
            hub.remembered(Change("added", (id,)))
            hub.tick()
        await watch.until("lagged")
        hub.remembered(Change("added", (999,)))
        await watch.until("memory.added", ids=[999])
    assert watch.dashboard.snapshots == 2
    seen = [frame["ids"][0] for frame in watch.dashboard.frames if frame["type"] == "memory.added"]
    assert len(seen) + watch.dashboard.missed[0] == MOST_WAITING + 5 + 1


async def test_who_stops_reading_is_cut_off_and_slows_nobody(tmp_path: Path) -> None:
    stage = Stage(lambda prompt: "长" * 300 if "讲" in prompt else "好的。", width=1000)
    settings, listen = make_settings(tmp_path), listener(SO_SNDBUF=1)
    async with running(settings, stage, listen=listen, send_seconds=1) as service:
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        ours.setblocking(False)
        await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", service.port))
        async with watching(service, sock=ours, max_queue=1, compression=None) as watch:
            assert (await service.private("讲个长故事")).json()["outcome"] == "replied"
            if sockets := service.state["sockets"]:
                async with asyncio.timeout(12):  # the pings of the server would find it out, too, but much later
                    await asyncio.wait(sockets)
            assert (await service.private("你好", user=2)).json()["outcome"] == "replied"
            watch.connection.transport.abort()


async def test_it_counts_as_long_as_it_is_open(service: Service) -> None:
    sockets = service.state["sockets"]
    async with watching(service), watching(service):
        assert len(sockets) == 2
    if sockets:
        await asyncio.wait(sockets)
    assert not sockets


async def test_it_is_only_to_be_read(service: Service) -> None:
    async with watching(service) as watch:
        await watch.connection.send(json.dumps({"type": "ping"}))
        assert await watch.closed() == (1008, "This socket is only to be read; talk on /ws/chat.")


async def test_it_closes_when_the_service_stops(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage()) as service, watching(service) as watch:
        service.server.should_exit = True
        assert await watch.closed() == (1012, "")


async def test_a_bug_closes_it_with_1011_and_is_logged_once(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    async with watching(service) as watch, watching(service) as other:
        service.state["hub"].remembered(Change("broken", (1,)))  # type: ignore[arg-type]
        assert await watch.closed() == (1011, "")
        assert await other.closed() == (1011, "")
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]
    async with watching(service):
        pass


async def test_it_needs_a_token_that_may_read(tmp_path: Path) -> None:
    tokens = [{"name": scope, "token": f"{scope}-secret", "scopes": (scope,)} for scope in ("chat", "read", "admin")]
    settings = make_settings(tmp_path, server={"tokens": tokens})
    async with running(settings, Stage()) as service:
        for scope, status in (("nobody", 401), ("chat", 403)):
            with pytest.raises(InvalidStatus) as refused:
                async with watching(service, additional_headers={"Authorization": f"Bearer {scope}-secret"}):
                    pass
            assert refused.value.response.status_code == status
        for scope in ("read", "admin"):
            async with watching(service, additional_headers={"Authorization": f"Bearer {scope}-secret"}):
                pass


async def test_a_page_of_another_origin_may_not_watch(service: Service) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with watching(service, origin="http://evil.example"):
            pass
    assert refused.value.response.status_code == 403
