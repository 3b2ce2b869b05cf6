"""The program around the bridge: settings, commands, doctor, health."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from qqmem_bridge.cli import app
from qqmem_bridge.doctor import Finding, examine
from qqmem_bridge.errors import SettingsError
from qqmem_bridge.health import Health
from qqmem_bridge.ncatbot import LICENCE
from qqmem_bridge.settings import Settings, load_settings, settings_file
from qqmem_bridge.store import Store
from tests.bridge.harness import ANN, GROUP, FastClock, running_service, scene


def test_the_settings_file_is_the_defaults() -> None:
    text = settings_file()
    Path("bridge.yaml").write_text(text, "utf-8")
    assert load_settings().model_dump() == Settings().model_dump()
    shown = re.sub(r"^(\s*)# (\w+: )", r"\1\2", text, flags=re.MULTILINE)
    Path("bridge.yaml").write_text(shown.replace('token: ""', "token:"), "utf-8")
    assert load_settings().model_dump() == Settings().model_dump()
    assert len(yaml.safe_load(shown)) == len(Settings.model_fields)


def test_file_environment_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("b.yaml").write_text("name: file\nallow: {groups: [777], users: ['10001']}\npace: {gap: 3}\n", "utf-8")
    monkeypatch.setenv("QQMEM_BRIDGE_PACE__GAP", "4")
    monkeypatch.setenv("QQMEM_BRIDGE_TOKEN", "secret-of-service")
    monkeypatch.setenv("NAPCAT_TOKEN", "secret-of-napcat")
    found = load_settings(Path("b.yaml"), {"napcat": {"url": "ws://x:1"}})
    assert (found.name, found.pace.gap, found.allow.groups, found.napcat.url) == ("file", 4, ("777",), "ws://x:1")
    assert found.napcat.token is not None
    assert found.napcat.token.get_secret_value() == "secret-of-napcat"
    assert "secret-of" not in repr(found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("alow: {}", "There is no setting alow. Did you mean allow?|There is no setting alow"),
        ("pace: {gpa: 1}", r"There is no setting pace\.gpa\. Did you mean pace\.gap\?"),
        ("pace: {gap: -1}", r"Setting pace\.gap: "),
        ("transport: ncat", "Setting transport: .*'onebot' or 'ncatbot'"),
        ("allow: {groups: [abc]}", r"Setting allow\.groups\.0: "),
        ("a: [", "not valid YAML"),
        ("[1]", "cannot be read as settings"),
    ],
)
def test_what_is_wrong_is_one_sentence(text: str, sentence: str) -> None:
    Path("bridge.yaml").write_text(text, "utf-8")
    with pytest.raises(SettingsError, match=sentence):
        load_settings()


def test_init_writes_once() -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["init"]).exit_code == 0
    assert Path("bridge.yaml").read_text("utf-8") == settings_file()
    second = runner.invoke(app, ["init"])
    assert isinstance(second.exception, SettingsError)


def test_without_a_list_it_does_not_run() -> None:
    found = CliRunner().invoke(app, ["run"])
    assert "Nobody may talk to the bot" in str(found.exception)


async def _findings(settings: Settings) -> list[tuple[str, str]]:
    async def every() -> list[Finding]:
        return [finding async for finding in examine(settings, FastClock())]

    return [(finding.state, finding.text) for finding in await every()]


async def test_the_doctor_finds_all_well_and_leaves_the_bridge_alone(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        found = await _findings(s.settings)
        assert [state for state, _ in found if state != "warning"] == ["ok", "ok", "ok"]
        assert [text for state, text in found if state == "warning"] == (
            [LICENCE] if bench.transport == "ncatbot" else []
        )
        assert "logged in as 3000001" in found[-2][1]
        assert s.service.hellos[-1]["bridge"] == "qq-doctor"
        assert not s.napcat.sent
        s.napcat.online = False
        assert ("wrong", "The QQ account is offline; log in again in NapCat's WebUI.") in await _findings(s.settings)


async def test_the_doctor_says_what_is_wrong(bench: Any, tmp_path: Path) -> None:
    async with running_service() as service, bench.FakeNapCat(token="t") as napcat:
        settings = Settings.model_validate(
            {"service": service.url, "token": "wrong-one", "napcat": {"url": napcat.ws_uri}, "data": tmp_path}
        )
        texts = [text for _, text in await _findings(settings)]
    await service.down()
    assert [
        one in text for one, text in zip(("Nobody may talk", "NAPCAT_TOKEN", "does not accept"), texts, strict=True)
    ]
    assert all(state == "wrong" for state, _ in await _findings(settings))


async def test_health_and_metrics(unused_tcp_port: int) -> None:
    state: dict[str, Any] = {"ok": True, "last_event_seconds": None, "counters": {"sent": 3}}

    async def now() -> dict[str, Any]:
        return state

    health = Health("127.0.0.1", unused_tcp_port, now)
    await health.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_tcp_port}", trust_env=False) as client:
        assert (await client.get("/healthz")).json() == state
        state["ok"] = False
        assert (await client.get("/healthz")).status_code == 503
        assert (await client.get("/metrics")).text == "qqmem_bridge_ok 0\nqqmem_bridge_counters_sent 3\n"
        assert (await client.get("/")).status_code == 404
    reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
    writer.write(b"\xff" * 20_000)
    assert await reader.read() == b""
    writer.close()
    with pytest.raises(SettingsError, match=r"health\.port"):
        await Health("127.0.0.1", unused_tcp_port, now).start()
    await health.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    await asyncio.to_thread(path.write_text, "no database " * 100)
    store = Store(path, 0)
    with pytest.raises(sqlite3.DatabaseError):
        await store.open()
    await store.close()


async def test_the_program_survives_a_real_kill(bench: Any, tmp_path: Path) -> None:
    """SIGKILL in the middle of a reply and of a message that the service has not acked."""
    async with running_service() as service, bench.FakeNapCat(token="t") as napcat:

        async def program() -> asyncio.subprocess.Process:
            environment = {
                **os.environ, "QQMEM_BRIDGE_TOKEN": service.token, "NAPCAT_TOKEN": "t",
                "QQMEM_BRIDGE_HEALTH__PORT": "0",
                "QQMEM_BRIDGE_ALLOW__GROUPS": f"[{GROUP}]", "QQMEM_BRIDGE_ALLOW__USERS": f"[{ANN}]",
                "QQMEM_BRIDGE_PACE__GAP": "0", "QQMEM_BRIDGE_PACE__JITTER": "0", "QQMEM_BRIDGE_MERGE__QUIET": "0",
            }  # fmt: skip
            command = ["-m", "qqmem_bridge", "run", "--service", service.url, "--napcat", napcat.ws_uri]
            command += ["--transport", bench.transport]
            before = len(service.hellos)
            found = await asyncio.create_subprocess_exec(
                sys.executable, *command, "--data", str(tmp_path / "kept"), cwd=tmp_path, env=environment
            )
            await napcat.wait_connected(timeout=30)
            await service.changes.until(lambda: len(service.hellos) > before and service.socket, 30)
            return found

        first = await program()
        service.acking = False
        await napcat.private_message(ANN, "not acked")
        await service.wait("message")
        napcat.lose_response("send_group_msg")
        await service.deliver(1, ["eins", "zwei"])
        await napcat.wait_sent(group_id=GROUP)
        first.send_signal(signal.SIGKILL)
        await first.wait()
        service.acking = True
        second = await program()
        told = await service.outcome(1)
        assert told["status"] == "sent"
        assert [one.plain_text for one in napcat.sent] == ["eins", "zwei"]
        await service.wait("message", 2)
        assert [frame["text"] for frame in service.stored.values()] == ["not acked"]
        second.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(second.wait(), 10) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
