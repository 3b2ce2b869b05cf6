"""`qqmem memory …` against a real service on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qqmem.cli_memory import app
from tests.api.memories import Remembering, remembering
from tests.test_cli import qqmem


@dataclass
class Shell:
    service: Remembering

    async def run(self, *arguments: str, type: str | bytes | None = None, **environment: str) -> Result:
        """A command as a person types it; what they type then is `type`."""
        given = [*arguments, "--url", self.service.url]
        surroundings = {"NO_COLOR": "1", "COLUMNS": "120", **environment}
        return await asyncio.to_thread(CliRunner().invoke, app, given, input=type, env=surroundings)

    async def texts(self) -> list[str]:
        found = await self.run("list", "--json")
        return [memory["text"] for memory in json.loads(found.stdout)["memories"]]


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with remembering(tmp_path / "data") as service:
        yield Shell(service)


async def test_a_fact_is_added_listed_and_found(shell: Shell) -> None:
    added = await shell.run("add", "小明喜欢黑咖啡", "--scope", "user:10001")
    assert (added.exit_code, "小明喜欢黑咖啡" in added.stdout) == (0, True)
    await shell.run("add", "小红养了一只猫", "-s", "member:10002@8", "--subject", "10002")
    listed = (await shell.run("list")).stdout
    assert listed.splitlines()[0].split() == ["id", "scope", "kind", "text"]
    assert listed.splitlines()[1].split() == ["2", "member:10002@8", "fact", "小红养了一只猫"]
    assert "猫" not in (await shell.run("list", "--conversation", "private:10001")).stdout
    assert "咖啡" not in (await shell.run("list", "--subject", "10002", "--kind", "fact")).stdout
    found = (await shell.run("search", "咖啡", "-k", "3")).stdout
    assert ("✓" in found, "小明喜欢黑咖啡" in found, "猫" in found) == (True, True, False)
    assert (await shell.run("search", "咖啡", "--scope", "user:2")).stdout.strip() == "No memories."


async def test_json_is_what_the_service_says(shell: Shell) -> None:
    await shell.service.tell("小明喜欢黑咖啡")
    for arguments in (("list",), ("search", "咖啡")):
        params = {"q": "咖啡"} if "search" in arguments else {}
        said = (await shell.service.http.get("/api/memories", params=params)).json()
        assert json.loads((await shell.run(*arguments, "--json")).stdout) == said


async def test_a_list_says_how_to_go_on(shell: Shell) -> None:
    for text in ("一", "二", "三"):
        await shell.service.tell(text)
    first = await shell.run("list", "-n", "2")
    assert "--before 2" in first.stderr
    rest = await shell.run("list", "-n", "2", "--before", "2")
    assert ("一" in rest.stdout, "二" in rest.stdout, rest.stderr) == (True, False, "")


async def test_a_text_cannot_drive_the_terminal(shell: Shell) -> None:
    await shell.service.remember("[red]红\x1b]0;title\x07\x1b[2J\n第二行\u202e")
    listed = (await shell.run("list")).stdout
    assert "[red]红�]0;title��[2J 第二行�" in listed


async def test_forgetting_asks_back(shell: Shell) -> None:
    for text in ("喜欢咖啡", "讨厌咖啡渣", "养猫"):
        await shell.service.tell(text)
    asked = ("forget", "--scope", "user:10001", "--words", "咖啡")
    for answer in ("n\n", "", "\n"):
        refused = await shell.run(*asked, type=answer)
        assert refused.exit_code == 1
        assert "讨厌咖啡渣" in refused.stderr
    assert len(await shell.texts()) == 3
    done = await shell.run(*asked, type="y\n")
    assert (done.exit_code, done.stdout.endswith("Forgotten: 2\n")) == (0, True)
    assert await shell.texts() == ["养猫"]
    done = await shell.run("forget", "3", "--yes", "--json")
    assert json.loads(done.stdout)["forgotten"] == [3]
    assert await shell.texts() == []


async def test_what_the_service_refuses_is_one_sentence(shell: Shell) -> None:
    for arguments, sentence in (
        (("list", "--scope", "planet:1"), "no such scope"),
        (("add", " ", "-s", "global"), "needs a text"),
        (("forget",), "ids, or a scope"),
        (("forget", "404", "-y"), "no memory 404"),
        (("list", "--subject", "a b"), "subject"),
        (("export", "--scope", "x"), "no such scope"),
    ):
        answer = await shell.run(*arguments)
        assert answer.exit_code == 1, arguments
        assert sentence in str(answer.exception), arguments
        assert len(str(answer.exception)) < 300


async def test_a_token_is_given_taken_from_the_settings_and_sent_to_nobody_else(tmp_path: Path) -> None:
    async with remembering(tmp_path / "data", tokens={"boss": "admin"}) as service:
        shell = Shell(service)
        refused = await shell.run("list")
        assert "--token" in str(refused.exception)
        assert (await shell.run("list", "--token", "boss-secret")).exit_code == 0
        assert (await shell.run("list", QQMEM_TOKEN="boss-secret")).exit_code == 0
        port = service.url.rpartition(":")[2]
        tokens = [
            {"name": "talker", "token": "talk-secret"},
            {"name": "b", "token": "boss-secret", "scopes": ["admin"]},
        ]
        Path("qqmem.yaml").write_text(json.dumps({"server": {"port": int(port), "tokens": tokens}}))
        with_settings = await asyncio.to_thread(CliRunner().invoke, app, ["list"])
        assert with_settings.exit_code == 0
        assert (await shell.run("list")).exit_code == 1  # another service, as far as we know


async def test_an_export_is_written_whole_or_not_at_all(shell: Shell) -> None:
    await shell.service.tell("小明喜欢黑咖啡")
    file = Path("memories.jsonl")
    file.write_text("before")
    for _ in range(2):
        assert (await shell.run("export", str(file))).exit_code == 0
        assert json.loads(file.read_text("utf-8"))["text"] == "小明喜欢黑咖啡"
    assert (await shell.run("export")).stdout_bytes == file.read_bytes()
    assert (await shell.run("export", "--scope", "global", str(file))).exit_code == 0
    assert file.read_bytes() == b""
    assert "cannot be written" in str((await shell.run("export", "nowhere/file")).exception)
    assert {path.name for path in Path().iterdir()} == {"memories.jsonl", "data"}


async def test_an_export_that_breaks_off_leaves_the_file_as_it_was() -> None:
    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"tex\r\n')
        await writer.drain()
        writer.close()

    Path("memories.jsonl").write_text("before")
    async with await asyncio.start_server(breaking, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        asked = ["export", "memories.jsonl", "--url", f"http://127.0.0.1:{port}"]
        answer = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert answer.exit_code == 1
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [("memories.jsonl", "before")]


async def test_an_import_lists_the_bad_lines_and_takes_the_others(shell: Shell) -> None:
    await shell.service.tell("小明喜欢黑咖啡")
    good = (await shell.run("export")).stdout_bytes
    await shell.run("forget", "1", "-y")
    other = good.replace("黑咖啡".encode(), "绿茶".encode())
    Path("in.jsonl").write_bytes(good + b"{broken\n" + other + b"\xff\n")
    answer = await shell.run("import", "in.jsonl")
    assert answer.exit_code == 1
    assert [line.partition(": ")[0] for line in answer.stderr.splitlines()] == ["in.jsonl:2", "in.jsonl:4"]
    assert answer.stdout == "Added 1, skipped 1, bad lines 2.\n"
    assert await shell.texts() == ["小明喜欢绿茶"]
    again = await shell.run("import", "-", "--json", type=other)
    assert (again.exit_code, json.loads(again.stdout)["skipped"]) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("list", "--url", "http://127.0.0.1:9"), "start it with: qqmem serve"),
        (("import", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
        (("import", "."), "cannot be read"),
        (("search", "x", "--url", "nonsense"), "is not an address"),
        (("export", "--url", "http://a:b"), "is not an address"),
    ],
)
def test_without_a_service_it_says_what_to_do(arguments: tuple[str, ...], sentence: str) -> None:
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exit_code == 1
    assert sentence in str(answer.exception)


def test_it_is_a_command_of_the_program() -> None:
    answer = qqmem("memory", "list", "--url", "http://127.0.0.1:9")
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1)
    assert "start it with: qqmem serve" in answer.stderr


async def test_an_answer_that_is_none_of_ours_is_told_so() -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(stranger, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        answer = await asyncio.to_thread(CliRunner().invoke, app, ["list", "--url", url])
    assert "no qqmem service" in str(answer.exception)
