"""Trainers as processes: watched, and ended whole. They are real ones, which train nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qqmem import trainer
from qqmem.errors import TrainingError
from qqmem.trainer import MARK, Trainer, accelerate, birth, kill_left, marked

FAKE = Path(__file__).parent / "fake_trainer.py"
TOKEN = "0123456789abcdef"


class Trial:
    """One fake trainer, and what is heard of it."""

    def __init__(self, folder: Path, *plan: list[Any], hang_limit: float = 20.0, mark: str = TOKEN) -> None:
        self.folder = folder / "run"
        self.folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(json.dumps({"stage1": plan}))
        self.events: list[Mapping[str, Any]] = []
        self.pids: list[int] = []
        self.begun = asyncio.Event()
        command = [sys.executable, str(FAKE), "stage1", str(self.folder)]
        self.trainer = Trainer(command, self.folder, mark, self.events.append, self._born, hang_limit, poll=0.02)

    async def _born(self, pid: int, born: str) -> None:
        assert born == await asyncio.to_thread(birth, pid) != ""
        self.pids.append(pid)
        self.begun.set()

    async def run(self) -> None:
        await self.trainer.run()

    @property
    def children(self) -> list[int]:
        file = self.folder / "children"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    async def until(self, name: str) -> None:
        while not (self.folder / name).exists():  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(0.01)

    async def assert_all_gone(self) -> None:
        for pid in (*self.pids, *self.children):
            assert not is_alive(pid)
        assert await asyncio.to_thread(lambda: list(marked(TOKEN))) == []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trainer, "GRACE", 0.2)
    yield
    for pid in marked(TOKEN):  # whatever a test that failed has left
        os.kill(pid, signal.SIGKILL)


async def test_progress_is_told_in_order_and_the_result_is_there(tmp_path: Path) -> None:
    trial = Trial(tmp_path, ["progress", 1], ["progress", 2])
    await trial.run()
    assert [event.get("step") for event in trial.events] == [1, 2, None]
    assert trial.events[-1] == {"stage": "stage1", "done": True}
    assert (trial.folder / "stage1" / "metrics.json").exists()
    await trial.assert_all_gone()


async def test_a_torn_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    trial = Trial(tmp_path, ["progress", 1], ["torn"])
    await trial.run()
    assert [event.get("step") for event in trial.events] == [1, 7, None]


async def test_a_line_that_is_no_object_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trial = Trial(tmp_path, ["line", "{"], ["line", "[1]"], ["line", "\\ud800"], ["progress", 3])
    await trial.run()
    assert [event.get("step") for event in trial.events] == [3, None]
    assert "cannot be read" in caplog.text


async def test_what_an_earlier_trainer_said_is_not_told_again(tmp_path: Path) -> None:
    await Trial(tmp_path, ["progress", 1]).run()
    second = Trial(tmp_path, ["progress", 2])
    await second.run()
    assert [event.get("step") for event in second.events] == [2, None]


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ([["exit", 3]], "exit code 3"),
        ([["die"]], "SIGKILL"),
        ([["error", "The manifest is torn."], ["exit", 2]], "The manifest is torn."),
        ([["say", "OSError: [Errno 28] No space left on device"], ["exit", 1]], "disk is full"),
        ([["say", "torch.OutOfMemoryError: CUDA out of memory. Tried"], ["exit", 1]], "train.gpu: exclusive"),
    ],
)
async def test_a_failure_is_a_sentence(tmp_path: Path, plan: list[list[Any]], sentence: str) -> None:
    trial = Trial(tmp_path, ["progress", 1], *plan)
    with pytest.raises(TrainingError, match=sentence):
        await trial.run()
    assert len(trial.events) == 1 + (plan[0][0] == "error")
    await trial.assert_all_gone()


async def test_a_program_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.trainer.command = [str(tmp_path / "nothing")]
    with pytest.raises(TrainingError, match="cannot be started"):
        await trial.run()


async def test_a_hung_trainer_is_ended_with_its_workers(tmp_path: Path) -> None:
    plan = ["fork"], ["session"], ["deaf"], ["progress", 1], ["hang"]
    trial = Trial(tmp_path, *plan, hang_limit=1.0)
    with pytest.raises(TrainingError, match="no progress for 1 s"):
        await trial.run()
    assert len(trial.children) == 2
    await trial.assert_all_gone()


@pytest.mark.parametrize("end", [["exit", 1], ["die"], ["progress", 2]])
async def test_workers_do_not_outlive_their_launcher(tmp_path: Path, end: list[Any]) -> None:
    trial = Trial(tmp_path, ["fork"], ["session"], end)
    with suppress(TrainingError):
        await trial.run()
    assert len(trial.children) == 2
    await trial.assert_all_gone()


async def test_a_cancelled_trainer_is_ended_with_its_workers(tmp_path: Path) -> None:
    trial = Trial(tmp_path, ["fork"], ["session"], ["deaf"], ["hang"])
    running = asyncio.create_task(trial.run())
    await trial.until("hangs")
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await trial.assert_all_gone()


async def test_a_trainer_that_listens_may_end_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "GRACE", 30.0)
    trial = Trial(tmp_path, ["hang"])
    running = asyncio.create_task(trial.run())
    await trial.until("hangs")
    running.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([running])
    await trial.assert_all_gone()


async def test_it_gives_way_to_the_bot_and_uses_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trial = Trial(tmp_path, ["hang"])
    running = asyncio.create_task(trial.run())
    await trial.begun.wait()
    await trial.until("hangs")
    (pid,) = trial.pids
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(own + 10, 19)
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"OMP_NUM_THREADS={len(os.sched_getaffinity(0))}".encode() in environment
    assert b"OMP_WAIT_POLICY=passive" in environment
    running.cancel()
    await asyncio.wait([running])


async def test_what_is_set_outside_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    trial = Trial(tmp_path, ["hang"])
    running = asyncio.create_task(trial.run())
    await trial.until("hangs")
    environment = Path(f"/proc/{trial.pids[0]}/environ").read_bytes().split(b"\0")
    assert {b"OMP_WAIT_POLICY=active", b"OMP_NUM_THREADS=7"} < set(environment)
    running.cancel()
    await asyncio.wait([running])


def test_the_launcher_is_told_the_cpus_unless_a_person_does() -> None:
    def threads(*launch: str) -> list[str]:
        command = accelerate(launch)("stage1", Path("/runs/1"))
        assert command[-4:] == ["-m", "qqmem.train.stage1", "--run", "/runs/1"]
        return [each for each in command if each.isdecimal() or "threads" in each]

    assert threads() == ["--num_cpu_threads_per_process", str(len(os.sched_getaffinity(0)))]
    for own in (["--num_cpu_threads_per_process", "3"], ["--num-cpu-threads-per-process=3"]):
        assert threads(*own) == own


# What another program has left


def left(folder: Path, *arguments: str, mark: str = TOKEN) -> subprocess.Popen[bytes]:
    """A launcher of a service that was killed; this test is its parent only because somebody must be."""
    code = "import time; time.sleep(600)" if not arguments else arguments[0]
    environment = {**os.environ, MARK: mark}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True, cwd=folder)


def test_what_is_left_of_a_run_is_killed_whole(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "for new in (True, False):\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=new)\n"
        "open('up', 'w').close(); time.sleep(600)"
    )
    process = left(tmp_path, code)
    while not (tmp_path / "up").exists():
        pass
    assert len(list(marked(TOKEN))) == 3
    assert kill_left(process.pid, birth(process.pid), TOKEN)
    assert process.wait() == -signal.SIGKILL
    assert list(marked(TOKEN)) == []
    assert not kill_left(process.pid, "whatever", TOKEN)


def test_workers_without_a_launcher_are_found_by_their_mark(tmp_path: Path) -> None:
    process = left(tmp_path)
    assert kill_left(None, "", TOKEN)
    assert process.wait() == -signal.SIGKILL


def test_a_reused_pid_is_let_live(tmp_path: Path) -> None:
    stranger = left(tmp_path, mark="another")
    try:
        assert not kill_left(stranger.pid, birth(os.getpid()), TOKEN)
        assert not kill_left(stranger.pid, "", TOKEN)
        assert not kill_left(stranger.pid, "", "")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_birth_is_the_same_while_one_lives_and_nothing_afterwards(tmp_path: Path) -> None:
    process = left(tmp_path)
    born = birth(process.pid)
    assert born == birth(process.pid) != birth(os.getpid())
    process.kill()
    process.wait()
    assert birth(process.pid) == ""
