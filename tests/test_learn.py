"""Training runs from end to end, and everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from qqmem import trainer
from qqmem.errors import Conflict, EngineStopped, NotFound, ReleaseError
from qqmem.lessons import PRIVATE
from qqmem.memory.words import Segmenter
from qqmem.runs import Run
from qqmem.trainer import marked
from tests.learning import SPACE, Bot, Characters, learning, lines
from tests.test_releases import MANIFEST, parts
from tests.test_trainer import is_alive

FACTS = ("小明喜欢黑咖啡，不加糖", "小明养了一只叫年糕的猫", "小明的生日是五月三日")


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return Characters()


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "GRACE", 0.2)


@pytest.fixture
async def bot(tmp_path: Path, segmenter: Segmenter) -> Any:
    """A bot with three memories, 1 to 3."""
    async with learning(tmp_path, segmenter) as bot:
        await bot.remember(*FACTS)
        yield bot


def left_over(folder: Path) -> set[str]:
    """The files of a run that hold texts or what was learned of them."""
    private = {name for name in PRIVATE if (folder / name).exists()}
    return private | {
        str(each.relative_to(folder)) for stage in ("stage1", "stage2") for each in folder.glob(f"{stage}/*")
    }


async def until(bot: Bot, run: Run, name: str) -> Path:
    """Wait for a file of a run."""
    path = bot.run_folder(run.id) / name
    while not await asyncio.to_thread(path.exists):
        assert (await bot.learn.runs.find(run.id)).state == "running"
        await asyncio.sleep(0.02)
    return path


async def untrained(bot: Bot) -> bool:
    """Whether nothing has changed for those who talk with the bot."""
    return (bot.played.serving, (await bot.learn.status()).release, await bot.decodable()) == (None, None, {})


# What goes well


async def test_a_run_goes_through_its_stages_and_its_release_serves(bot: Bot) -> None:
    run = await bot.run()
    assert (run.state, run.error, run.release, run.stage) == ("done", "", "0001", "mark")
    assert bot.played.log == ["ready", "gate", "swap"]
    assert bot.played.serving == bot.folder / "releases" / "0001"
    manifest = await bot.manifest("0001")
    assert (manifest.base, manifest.spaces) == ({"name": "tiny", "sha256": "ab"}, {"value": SPACE})
    assert (manifest.trigger, manifest.decodable, manifest.memories) == ("model", (3, 2, 1), 3)
    assert (bot.learn.releases.folder / "0001/adapter/adapter_model.safetensors").read_text() == "weights of stage2"
    assert await bot.decodable() == {1: "0001", 2: "0001", 3: "0001"}
    assert run.metrics["gate"] == {"exact": 0.75}
    assert run.metrics["stage1"] == {"loss": 0.25}
    assert (await bot.learn.status()).release == "0001"


async def test_stages_and_progress_are_told(bot: Bot) -> None:
    bot.plan(stage1=[["progress", 1], ["progress", 2]])
    await bot.run()
    stages = list(dict.fromkeys(run.stage for run, _ in bot.played.told if run.stage))
    assert stages == ["export", "stage1", "stage2", "gate", "publish", "swap", "mark"]
    steps = [progress["step"] for run, progress in bot.played.told if run.stage == "stage1" and "step" in progress]
    assert steps[:2] == [1, 2]
    assert bot.played.told[-1][0].state == "done"


async def test_nothing_private_stays_behind(bot: Bot) -> None:
    await bot.run()
    assert left_over(bot.run_folder(1)) == {"stage1/metrics.json", "stage2/metrics.json"}
    assert [path.name for path in bot.run_folder(1).glob("*.jsonl")] == ["progress.jsonl"]
    kept = "".join(path.read_text("utf-8") for path in bot.run_folder(1).rglob("*") if path.is_file())
    kept += "".join(path.read_text("utf-8") for path in bot.learn.releases.folder.rglob("*") if path.is_file())
    assert not any(word in kept for word in ("咖啡", "年糕", "五月"))


async def test_only_what_the_gate_could_read_is_decodable(bot: Bot) -> None:
    bot.played.decodable = (2,)
    await bot.run()
    assert await bot.decodable() == {2: "0001"}


async def test_a_second_run_trains_what_was_trained_again_and_names_a_new_release(bot: Bot) -> None:
    await bot.run()
    (new,) = await bot.remember("小明在上海工作")
    bot.plan(stage1=[["hang"]])
    run = await bot.learn.trigger("test")
    folder = (await until(bot, run, "hangs")).parent
    assert {line["id"] for line in lines(folder / "memories.jsonl")} == {1, 2, 3, new.id}
    await bot.learn.cancel()
    bot.plan()
    assert (await bot.run()).release == "0002"
    assert set((await bot.decodable()).values()) == {"0002"}


async def test_releases_beyond_the_number_to_keep_are_deleted(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter, keep=2) as bot:
        await bot.remember(*FACTS)
        for _ in range(3):
            await bot.run()
        assert await bot.releases() == ["0002", "0003"]


async def test_a_gpu_for_one_is_left_to_the_trainers(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter, gpu="exclusive") as bot:
        await bot.remember(*FACTS)
        await bot.run()
        assert bot.played.log == ["ready", "pause", "gate", "resume", "swap"]
        bot.played.log.clear()
        bot.plan(stage1=[["exit", 1]])
        assert (await bot.run()).state == "failed"
        assert bot.played.log == ["ready", "pause", "resume"]
        bot.played.log.clear()
        bot.plan(stage2=[["hang"]])
        await until(bot, await bot.learn.trigger("test"), "hangs")
        await bot.learn.cancel()
        assert bot.played.log == ["ready", "pause", "resume"]


# What is refused, and what fails


async def test_a_refused_release_does_not_serve_and_stays_with_its_report(bot: Bot) -> None:
    bot.played.passed = False
    run = await bot.run()
    assert (run.state, run.error, run.release) == ("refused", "exact is .20, and must be .50.", "")
    assert await bot.releases() == []
    assert await untrained(bot)
    folder = bot.run_folder(1)
    report = json.loads((folder / "report.json").read_text())
    assert report.items() >= {"run": 1, "passed": False, "figures": {"exact": 0.75}, "reason": run.error}.items()
    assert report["stages"]["stage2"] == {"loss": 0.25}
    assert run.error in (folder / "report.html").read_text()
    assert left_over(folder) == {
        "stage1/metrics.json",
        "stage2/metrics.json",
        "stage2/adapter",
        "stage2/recall.safetensors",
    }


async def test_a_release_has_its_report(bot: Bot) -> None:
    bot.plan(stage1=[["progress", 1], ["line", "[1]"], ["line", "{half a"], ["progress", 2]])
    assert (await bot.run()).release == "0001"
    release = bot.folder / "releases" / "0001"
    for name in ("report.json", "report.html"):
        assert (release / name).read_text() == (bot.run_folder(1) / name).read_text()
    assert json.loads((release / "report.json").read_text())["passed"]


async def test_a_page_that_cannot_be_drawn_costs_no_training(bot: Bot, caplog: pytest.LogCaptureFixture) -> None:
    bot.played.details = {"lanes": "not a table"}
    assert (await bot.run()).state == "done"
    assert "has no page" in caplog.text
    assert not (bot.folder / "releases/0001/report.html").exists()


async def test_without_memories_nothing_begins(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter) as bot:
        with pytest.raises(Conflict, match="Nothing is remembered"):
            await bot.learn.trigger("test")
        assert await bot.learn.runs.page(9) == []
        (memory,) = await bot.remember(FACTS[0])
        assert (await bot.run()).state == "done"
        await bot.memories.forget([memory.id], "test")
        with pytest.raises(Conflict):
            await bot.learn.trigger("test")


async def test_two_triggers_at_once_are_one_run(bot: Bot) -> None:
    found = await asyncio.gather(*(bot.learn.trigger("test") for _ in range(5)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in found) == ["Conflict"] * 4 + ["Run"]
    with pytest.raises(Conflict):
        await bot.learn.rollback(None)
    await bot.learn.wait()
    assert (await bot.run()).id == 2


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"stage1": [["exit", 3]]}, "exit code 3"),
        ({"stage2": [["die"]]}, "SIGKILL"),
        ({"stage2": [["error", "The model is another."], ["exit", 2]]}, "The model is another."),
        ({"stage1": [["say", "No space left on device"], ["exit", 1]]}, "disk is full"),
        ({"stage1": [["exit", 0]]}, "without a result"),
    ],
)
async def test_a_trainer_that_fails_changes_nothing(bot: Bot, plan: dict[str, Any], sentence: str) -> None:
    bot.plan(**plan)
    run = await bot.run()
    assert run.state == "failed"
    assert sentence in run.error
    assert await untrained(bot)
    assert left_over(bot.run_folder(1)) <= {"stage1/metrics.json"}
    assert (bot.run_folder(1) / "log.txt").exists()
    bot.plan()
    assert (await bot.run()).state == "done"


async def test_a_run_that_takes_too_long_is_ended(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter, time_limit=2.0) as bot:
        await bot.remember(*FACTS)
        bot.plan(stage1=[["fork"], ["session"], ["deaf"], ["hang"]])
        run = await bot.run()
        assert (run.state, "train.time_limit" in run.error) == ("failed", True)
        assert await untrained(bot)
        await assert_gone(bot, run)


async def test_a_hung_trainer_is_ended(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter, hang_limit=0.5) as bot:
        await bot.remember(*FACTS)
        bot.plan(stage2=[["progress", 1], ["fork"], ["hang"]])
        run = await bot.run()
        assert (run.state, "no progress" in run.error) == ("failed", True)
        await assert_gone(bot, run)


async def test_a_full_disk_is_a_sentence(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter, free=2**20) as bot:
        await bot.remember(*FACTS)
        run = await bot.run()
        assert (run.state, "disk" in run.error) == ("failed", True)


def raises(hook: str, error: Exception) -> Callable[[str], None]:
    def fault(name: str) -> None:
        if name == hook:
            raise error

    return fault


@pytest.mark.parametrize(
    ("hook", "error", "sentence"),
    [
        ("ready", EngineStopped("The model has failed."), "The model has failed."),
        ("ask", EngineStopped("The model has failed."), "The model has failed."),
        ("gate", OSError(28, "No space left on device"), "disk"),
        ("gate", ZeroDivisionError(), "bug"),
        ("swap", RuntimeError("cuda"), "bug"),
    ],
)
async def test_a_failure_anywhere_changes_nothing(bot: Bot, hook: str, error: Exception, sentence: str) -> None:
    bot.played.fault = raises(hook, error)
    run = await bot.run()
    assert (run.state, sentence in run.error) == ("failed", True)
    assert await untrained(bot)
    bot.played.fault = lambda _: None
    assert (await bot.run()).state == "done"


async def test_if_it_cannot_be_put_in_force_the_one_before_comes_back(
    bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bot.run()

    def full(name: str | None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bot.learn.releases, "point", full)
    run = await bot.run()
    assert (run.state, "disk" in run.error) == ("failed", True)
    assert bot.played.serving == bot.folder / "releases" / "0001"
    assert set((await bot.decodable()).values()) == {"0001"}


async def test_memories_without_vectors_are_a_sentence(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter, values=False) as bot:
        await bot.remember(*FACTS)
        assert "vector" in (await bot.run()).error


# Forgetting


async def test_what_was_forgotten_is_in_no_file(bot: Bot) -> None:
    await bot.memories.forget([2], "test")
    bot.plan(stage1=[["hang"]])
    run = await bot.learn.trigger("test")
    folder = (await until(bot, run, "hangs")).parent
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert ("年糕".encode() in written, "咖啡".encode() in written) == (False, True)
    assert "年糕" not in json.dumps(lines(folder / "memories.jsonl"), ensure_ascii=False)


async def test_what_is_forgotten_or_corrected_meanwhile_is_not_decodable(bot: Bot) -> None:
    def change(name: str) -> None:
        if name == "gate":
            changing.append(asyncio.ensure_future(both()))

    async def both() -> None:
        await bot.memories.forget([2], "test")
        await bot.memories.edit(3, "小明的生日是五月四日", "test")

    changing: list[asyncio.Future[None]] = []
    bot.played.fault = change
    gate = bot.played.gate

    async def slow(run: Path) -> Any:
        report = await gate(run)
        await changing[0]
        return report

    bot.learn._hooks = replace(bot.learn._hooks, gate=slow)
    run = await bot.run()
    assert run.state == "done"
    assert (await bot.manifest("0001")).decodable == (1,)
    assert await bot.decodable() == {1: "0001"}
    assert left_over(bot.run_folder(1)) == {"stage1/metrics.json", "stage2/metrics.json"}


# Stopping, and going on


async def assert_gone(bot: Bot, run: Run) -> None:
    children = bot.run_folder(run.id) / "children"
    for pid in children.read_text().split():
        assert not is_alive(int(pid))
    assert await asyncio.to_thread(lambda: list(marked(run.mark))) == []


async def test_a_cancelled_run_leaves_nothing(bot: Bot) -> None:
    bot.plan(stage2=[["fork"], ["session"], ["deaf"], ["hang"]])
    run = await bot.learn.trigger("test")
    await until(bot, run, "hangs")
    assert (await bot.learn.status()).is_running
    assert await bot.learn.cancel()
    assert not await bot.learn.cancel()
    assert (await bot.learn.runs.find(run.id)).state == "cancelled"
    assert not (await bot.learn.status()).is_running
    await assert_gone(bot, run)
    assert left_over(bot.run_folder(run.id)) == {"stage1/metrics.json"}
    bot.plan()
    assert (await bot.run()).state == "done"


async def stopped(folder: Path, segmenter: Segmenter) -> None:
    """A service that ends while the second stage hangs."""
    async with learning(folder, segmenter) as bot:
        await bot.remember(*FACTS)
        bot.plan(stage2=[["fork"], ["session"], ["hang"]])
        run = await bot.learn.trigger("test")
        await until(bot, run, "hangs")
    await assert_gone(bot, run)


async def test_a_service_that_ends_stops_its_trainers_and_the_next_goes_on(
    tmp_path: Path, segmenter: Segmenter
) -> None:
    await stopped(tmp_path, segmenter)
    async with learning(tmp_path, segmenter) as bot:
        assert (await bot.learn.runs.find(1)).state == "interrupted"
        bot.plan(stage1=[["exit", 9]])  # which is done already
        bot.played.fault = raises("ask", EngineStopped("Nothing is asked again."))
        run = await bot.run()
        assert (run.id, run.state, run.release) == (2, "done", "0001")
        assert set(await bot.decodable()) == {1, 2, 3}
        assert not bot.run_folder(1).exists()
        assert left_over(bot.run_folder(2)) == {"stage1/metrics.json", "stage2/metrics.json"}


async def test_it_does_not_go_on_with_what_was_forgotten(tmp_path: Path, segmenter: Segmenter) -> None:
    await stopped(tmp_path, segmenter)
    async with learning(tmp_path, segmenter) as bot:
        await bot.remember("小明在上海工作")  # is no reason to begin anew
        await bot.learn.tidy()
        assert "memories.jsonl" in left_over(bot.run_folder(1))
        await bot.memories.forget([2], "test")
        await bot.learn.tidy()
        assert left_over(bot.run_folder(1)) == {"stage1/metrics.json"}
        bot.plan(stage1=[["exit", 9]])
        assert "exit code 9" in (await bot.run()).error


async def test_what_was_forgotten_is_deleted_at_once(tmp_path: Path, segmenter: Segmenter) -> None:
    await stopped(tmp_path, segmenter)
    async with learning(tmp_path, segmenter) as bot:
        assert (bot.run_folder(1) / "memories.jsonl").exists()
        await bot.memories.forget([2], "test")
        async with asyncio.timeout(10):
            while left_over(bot.run_folder(1)) != {"stage1/metrics.json"}:  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(0.01)


async def test_what_was_corrected_is_deleted_at_once(tmp_path: Path, segmenter: Segmenter) -> None:
    await stopped(tmp_path, segmenter)
    async with learning(tmp_path, segmenter) as bot:
        await bot.memories.edit(3, "小明的生日是五月四日", "test")
        async with asyncio.timeout(10):
            while left_over(bot.run_folder(1)) != {"stage1/metrics.json"}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_it_does_not_go_on_with_other_settings(tmp_path: Path, segmenter: Segmenter) -> None:
    await stopped(tmp_path, segmenter)
    async with learning(tmp_path, segmenter, seed=5) as bot:
        bot.plan(stage1=[["exit", 9]])
        assert "exit code 9" in (await bot.run()).error


async def test_it_does_not_go_on_with_a_run_of_long_ago(tmp_path: Path, segmenter: Segmenter) -> None:
    await stopped(tmp_path, segmenter)
    database = sqlite3.connect(tmp_path / "qqmem.db")
    with database:
        database.execute("UPDATE training_run SET started_at = '2020-01-01 00:00:00.000000'")
    database.close()
    async with learning(tmp_path, segmenter) as bot:
        assert left_over(bot.run_folder(1)) == {"stage1/metrics.json"}


# Killed


SERVICE = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {repo!r})
from tests.learning import Characters, Played, learning

async def main(folder, point):
    def die(name):
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)
    played = Played(folder, fault=die)
    async with learning(folder, Characters(), played) as bot:
        if point == "pointed":
            real = bot.learn.releases.point
            bot.learn.releases.point = lambda name: (real(name), die("pointed"))
        if point == "published":
            real = bot.learn.releases.publish
            bot.learn.releases.publish = lambda *a, **k: (real(*a, **k), die("published"))
        await bot.learn.trigger("test")
        await bot.learn.wait()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def service(folder: Path, point: str) -> subprocess.Popen[bytes]:
    """A service that trains, and is killed at some point; with `hangs`, from outside while a trainer hangs."""
    program = textwrap.dedent(SERVICE).format(repo=str(Path(__file__).parents[1]))
    return subprocess.Popen([sys.executable, "-c", program, str(folder), point])


async def prepared(folder: Path, segmenter: Segmenter, **plan: Any) -> None:
    async with learning(folder, segmenter) as bot:
        await bot.remember(*FACTS)
        bot.plan(**plan)


@pytest.mark.parametrize("point", ["ready", "ask", "gate", "published", "swap", "pointed"])
async def test_a_kill_at_any_point_leaves_what_was_in_force_and_can_be_followed_by_a_run(
    tmp_path: Path, segmenter: Segmenter, point: str
) -> None:
    await prepared(tmp_path, segmenter)
    killed = await asyncio.to_thread(service(tmp_path, point).wait)
    assert killed == -signal.SIGKILL
    async with learning(tmp_path, segmenter) as bot:
        run = await bot.learn.runs.find(1)
        if point == "pointed":
            assert (run.state, (await bot.learn.status()).release) == ("done", "0001")
            assert set(await bot.decodable()) == {1, 2, 3}
        else:
            assert run.state == "interrupted"
            assert await untrained(bot)
        again = await bot.run()
        assert (again.state, again.id) == ("done", 2)
        assert set((await bot.decodable()).values()) == {again.release}
        assert (await bot.manifest(again.release)).release == again.release
        assert left_over(bot.run_folder(2)) == {"stage1/metrics.json", "stage2/metrics.json"}


async def test_trainers_of_a_killed_service_are_killed_at_the_next_start(tmp_path: Path, segmenter: Segmenter) -> None:
    await prepared(tmp_path, segmenter, stage1=[["fork"], ["session"], ["deaf"], ["hang"]])
    process = service(tmp_path, "never")
    hangs = tmp_path / "train/runs/1/hangs"

    def kill() -> None:
        while not hangs.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()

    await asyncio.to_thread(kill)
    children = [int(pid) for pid in (tmp_path / "train/runs/1/children").read_text().split()]
    assert all(is_alive(pid) for pid in children)
    async with learning(tmp_path, segmenter) as bot:
        assert not any(is_alive(pid) for pid in children)
        run = await bot.learn.runs.find(1)
        assert (run.state, run.pid, run.born) == ("interrupted", None, "")
        await assert_gone(bot, run)
        bot.plan()
        assert (await bot.run()).state == "done"


async def test_a_pid_that_is_somebody_elses_by_now_is_let_live(tmp_path: Path, segmenter: Segmenter) -> None:
    async with learning(tmp_path, segmenter) as bot:
        run = await bot.learn.runs.begin("test", "mark")
        await bot.learn.runs.note(run.id, pid=os.getpid(), born="boot/1")
    async with learning(tmp_path, segmenter) as bot:
        assert (await bot.learn.runs.find(run.id)).state == "interrupted"


# Going back


async def test_rolling_back_and_forth(bot: Bot) -> None:
    await bot.run()
    bot.played.decodable = (1,)
    await bot.run()
    assert (await bot.decodable())[1] == "0002"
    assert await bot.learn.rollback("0001") == "0001"
    assert str(bot.played.serving) == str(bot.folder / "releases" / "0001")
    assert ((await bot.learn.status()).release, set((await bot.decodable()).values())) == ("0001", {"0001"})
    assert await bot.learn.rollback(None) is None
    assert (await bot.learn.status()).release is None
    with pytest.raises(NotFound):
        await bot.learn.rollback("0007")
    (bot.folder / "releases/0002/manifest.json").write_text("{")
    with pytest.raises(ReleaseError):
        await bot.learn.rollback("0002")
    assert bot.played.serving is None
    assert (await bot.run()).release == "0003"


async def test_back_to_the_starter_and_to_the_untrained_model(bot: Bot) -> None:
    with pytest.raises(NotFound, match="no starter"):
        await bot.learn.rollback("starter")
    bot.learn.releases.starter = starter = parts(bot.folder / "starter")
    (starter / "manifest.json").write_text(json.dumps(asdict(replace(MANIFEST, release="starter", decodable=()))))
    assert (await bot.learn.status()).release == "starter"
    await bot.run()
    assert (await bot.learn.status()).release == "0001"
    assert await bot.learn.rollback("starter") == "starter"
    assert (bot.played.serving, (await bot.learn.status()).release) == (starter, "starter")
    assert "starter" not in (await bot.decodable()).values()
    assert await bot.learn.rollback(None) is None
    assert (bot.played.serving, (await bot.learn.status()).release) == (None, None)
    bot.played.fault = raises("swap", ReleaseError("Torn."))
    with pytest.raises(ReleaseError):
        await bot.learn.rollback("starter")
    assert (await bot.learn.status()).release is None
    bot.played.fault = lambda _: None
    await bot.learn.rollback("starter")
    bot.played.fault = raises("gate", ReleaseError("Stop."))
    await bot.run()
    assert bot.played.serving == starter


async def test_a_release_that_the_engine_does_not_take_is_not_in_force(bot: Bot) -> None:
    await bot.run()
    await bot.learn.rollback(None)
    bot.played.fault = raises("swap", ReleaseError("Release 0001 is of another model."))
    with pytest.raises(ReleaseError):
        await bot.learn.rollback("0001")
    assert (await bot.learn.status()).release is None
