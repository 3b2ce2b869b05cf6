"""What is ncatbot's own: it leaves the process alone, is missed with a sentence, and serves handlers written for it."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qqmem_bridge import ncatbot
from qqmem_bridge.errors import NotConnected, SettingsError
from qqmem_bridge.ncatbot import NcatBot
from tests.bridge.harness import FastClock

_NOTHING_CHANGES = """
import logging, os, signal, sys, tempfile, threading
own = logging.StreamHandler(sys.stdout)
logging.basicConfig(level=logging.ERROR, handlers=[own])
os.environ["LOG_FILE_PATH"] = "before"

def state():
    root = logging.getLogger()
    return (
        root.level, list(root.handlers), logging.getLoggerClass(), dict(os.environ), os.getcwd(), os.listdir("."),
        os.listdir(tempfile.gettempdir()), sys.stdout, sys.stderr, sys.excepthook, threading.enumerate(),
        [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)],
    )

from qqmem_bridge.clock import SystemClock
from qqmem_bridge.ncatbot import NcatBot

before = state()
NcatBot("ws://127.0.0.1:1", "secret", SystemClock())
assert state() == before, [pair for pair in zip(before, state()) if pair[0] != pair[1]]
assert "ncatbot.core" in sys.modules
import ncatbot.utils
ncatbot.utils.get_log("Adapter").error("what somebody wrote")
"""


@pytest.fixture(scope="module")
def quiet() -> NcatBot:
    """One that is not connected."""
    pytest.importorskip("ncatbot")
    return NcatBot("ws://127.0.0.1:1", "", FastClock())


def test_the_process_stays_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("ncatbot")
    (tmp_path / "temporary").mkdir()
    (tmp_path / "here").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", _NOTHING_CHANGES],
        cwd=tmp_path / "here",
        env={"TMPDIR": str(tmp_path / "temporary"), "PATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize(("name", "value"), [("_PACKAGE", "no-such-package-at-all"), ("_VERSION", "4.4.2")])
def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr(ncatbot, name, value)
    with pytest.raises(SettingsError, match=r"^transport: ncatbot needs [^\n]*pip install ncatbot==4\.4\.1\.post1"):
        ncatbot.imported.__wrapped__()


@pytest.mark.parametrize("bench", ["ncatbot"], indirect=True)
async def test_a_handler_written_for_ncatbot_is_called_and_may_answer(bench: Any) -> None:
    async with bench.FakeNapCat(token="t") as napcat:
        transport = NcatBot(napcat.ws_uri, "t", FastClock())

        async def answer(message: Any) -> None:
            await message.reply(text=f"heard {message.message.concatenate_text()}")

        transport.adapter.event_callback["ncatbot.group_message_event"] = answer
        running = asyncio.create_task(transport.run())
        events = transport.events()
        await napcat.wait_connected()
        mid = await napcat.group_message(777, 10001, "hi")
        while (await anext(events))["post_type"] != "message":
            pass
        sent = await napcat.wait_sent(group_id=777)
        assert (sent.reply_to, sent.plain_text.strip()) == (mid, "heard hi")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(NotConnected):
            await transport.call("get_status", {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["text", "at", "face", "image", "json", "reply", "forward", "node", "mface", "record", "x"]
DATA = st.dictionaries(st.sampled_from(["text", "qq", "id", "file", "url", "content", "data"]), JSON, max_size=3)
SEGMENT = st.fixed_dictionaries({"type": st.sampled_from(KINDS)}, optional={"data": JSON | DATA})
EVENT = st.fixed_dictionaries(
    {"post_type": st.sampled_from(["message", "message_sent", "notice", "request", "meta_event"]) | JSON},
    optional={
        "message_type": st.sampled_from(["group", "private"]) | JSON,
        "message": st.lists(SEGMENT, max_size=4) | JSON,
        "meta_event_type": st.sampled_from(["lifecycle", "heartbeat"]) | JSON,
        "sub_type": st.sampled_from(["connect", "poke", "friend", "normal"]) | JSON,
        "sender": JSON,
        "group_id": JSON,
    },
)


@settings(deadline=None)
@given(event=EVENT)
async def test_the_bridge_gets_each_event_as_it_came(quiet: NcatBot, event: dict[str, Any]) -> None:
    before = copy.deepcopy(event)
    quiet._connection._put(event)
    assert await anext(aiter(quiet.events())) == before
