"""`qqmem train …` against a real service on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qqmem import cli_train
from qqmem.cli_train import app
from tests.api.training import Teaching, teaching
from tests.learning import Characters
from tests.test_cli import qqmem
from tests.test_releases import starter

FACTS = ("小明喜欢黑咖啡，不加糖", "小明养了一只叫年糕的猫")


@dataclass
class Shell:
    service: Teaching

    async def run(self, *arguments: str) -> Result:
        given = [*arguments, "--url", self.service.url]
        surroundings = {"NO_COLOR": "1", "COLUMNS": "120"}
        return await asyncio.to_thread(CliRunner().invoke, app, given, env=surroundings)


@pytest.fixture
async def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    monkeypatch.setattr(cli_train, "_PAUSE", 0.02)
    async with teaching(tmp_path / "data", Characters()) as service:
        yield Shell(service)


async def test_a_run_that_one_waits_for(shell: Shell) -> None:
    await shell.service.bot.remember(*FACTS)
    shell.service.bot.plan(stage1=[["progress", 1], ["progress", 2]])
    done = await shell.run("run", "--wait")
    assert done.exit_code == 0, done.output
    assert "Run 1: done (mark), release 0001" in done.stdout
    assert "exact: 0.750" in done.stdout


async def test_a_run_that_fails_has_exit_code_1(shell: Shell) -> None:
    await shell.service.bot.remember(*FACTS)
    shell.service.bot.plan(stage2=[["exit", 3]])
    done = await shell.run("run", "-w")
    assert (done.exit_code, "failed (stage2)" in done.stdout, "exit code 3" in done.stdout) == (1, True, True)
    found = await shell.run("run", "--wait", "--json")
    assert (found.exit_code, json.loads(found.stdout)["state"]) == (1, "failed")


async def test_a_run_that_one_does_not_wait_for(shell: Shell) -> None:
    nothing = await shell.run("run")
    assert (nothing.exit_code, "Nothing is remembered" in str(nothing.exception)) == (1, True)
    await shell.service.bot.remember(*FACTS)
    begun = await shell.run("run")
    assert (begun.exit_code, "Run 1 has begun" in begun.stdout) == (0, True)
    await shell.service.bot.learn.wait()
    assert json.loads((await shell.run("run", "--json")).stdout)["id"] == 2


async def test_status(shell: Shell) -> None:
    fresh = (await shell.run("status")).stdout
    assert ("untrained" in fresh, "off" in fresh, "No run yet" in fresh) == (True, True, True)
    await shell.service.bot.remember(*FACTS)
    shell.service.bot.plan(stage2=[["progress", 3], ["hang"]])
    await shell.run("run")
    while "step 3 of 4" not in (shown := (await shell.run("status")).stdout):  # noqa: ASYNC110  as a person would
        await asyncio.sleep(0.02)
    assert "Run 1: running (stage2)" in shown
    assert "loss 0.500  0:03 left" in shown
    told = await shell.service.get("status")
    assert json.loads((await shell.run("status", "--json")).stdout) == told


async def test_the_report(shell: Shell, tmp_path: Path) -> None:
    none = await shell.run("report")
    assert (none.exit_code, "No run has been measured yet" in str(none.exception)) == (1, True)
    await shell.service.bot.remember(*FACTS)
    shell.service.bot.played.details = {
        "before": {"exact": 0.0, "ranks": [9]},
        "after": {"exact": 0.75, "recall_at_1": 1.0, "ranks": [1]},
        "ids": [1, 2],
        "decodable": [2],
    }
    await shell.service.run()
    route = f"{shell.service.url}/api/training/runs/1/report.html"
    assert f"Report: {route}" in (await shell.run("status")).stdout
    shell.service.bot.plan(stage1=[["exit", 1]])
    await shell.service.run()
    assert "Report" not in (await shell.run("status")).stdout
    said = (await shell.run("report")).stdout
    assert said.splitlines() == [
        "Run 1: passed",
        "  exact: 0.000 -> 0.750",
        "  recall_at_1: - -> 1.000",
        "  memories written exactly: 1 of 2",
    ]
    assert json.loads((await shell.run("report", "--json")).stdout) == await shell.service.get("runs/1/report")
    missing = await shell.run("report", "2")
    assert (missing.exit_code, "Training run 2 has no report" in str(missing.exception)) == (1, True)
    file = tmp_path / "report.html"
    saved = await shell.run("report", "1", "--html", str(file))
    assert (saved.exit_code, f"Saved: {file}" in saved.stdout) == (0, True)
    assert file.read_text("utf-8") == (await shell.service.http.get(route)).text
    nowhere = await shell.run("report", "1", "--html", str(tmp_path / "no" / "report.html"))
    assert (nowhere.exit_code, "cannot be written" in str(nowhere.exception)) == (1, True)


async def test_rollback(shell: Shell) -> None:
    await shell.service.bot.remember(*FACTS)
    for _ in range(2):
        await shell.service.run()
    assert "release 0001" in (await shell.run("rollback")).stdout
    assert "release 0002" in (await shell.run("rollback", "0002")).stdout
    assert json.loads((await shell.run("rollback", "base", "--json")).stdout) == {}
    shell.service.bot.learn.releases.starter = starter(shell.service.bot.folder / "starters")
    assert "In force: the starter\n" in (await shell.run("rollback", "starter")).stdout
    assert "In force: the starter\n" in (await shell.run("status")).stdout
    assert "In force: the untrained model\n" in (await shell.run("rollback", "base")).stdout
    wrong = await shell.run("rollback", "0007")
    assert (wrong.exit_code, "no release 0007" in str(wrong.exception)) == (1, True)


def test_it_is_a_command_of_qqmem() -> None:
    done = qqmem("train", "status", "--url", "http://127.0.0.1:9")
    assert (done.returncode, done.stderr.count("\n"), "qqmem serve" in done.stderr) == (1, 1, True)
