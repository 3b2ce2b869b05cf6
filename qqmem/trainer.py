"""A program that trains, as a group of processes: started, watched, and ended whole.

The launcher is only the first of them. Its workers may run in sessions of their own (torch's elastic launcher does
that), so each is known by a mark in its environment; where /proc does not tell it, by the launcher's group.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qqmem.errors import TrainingError

log = logging.getLogger(__name__)

MARK = "QQMEM_RUN"
"""The variable that holds the mark of a run."""

GRACE = 5.0
"""Seconds that a group has to end by itself, once it is told to."""

_POLL = 0.25
_NICE = 10
_PROC = Path("/proc")
_TAIL = 4096
_KNOWN = {
    "No space left on device": "The disk is full; make room and train again.",
    "out of memory": "The memory of the GPU was not enough; lower train.stage2.batch and train.stage1.batch, or set "
    "train.checkpointing, or train.gpu: exclusive.",
}
"""What stands in the output of a program that failed, and what to tell of it."""


@dataclass(slots=True)
class Trainer:
    """One program in a run's folder; its output goes to log.txt, and it says in progress.jsonl how far it is.

    event: told each line of progress. born: told pid and time of birth, before anything else.
    hang_limit: seconds without a new line after which it is taken for hung.
    """

    command: Sequence[str]
    folder: Path
    mark: str
    event: Callable[[Mapping[str, Any]], None]
    born: Callable[[int, str], Awaitable[None]]
    hang_limit: float
    poll: float = _POLL
    said: str = ""
    _read: int = field(default=0, init=False)

    async def run(self) -> None:
        """Wait until it has ended well. However this ends, nothing of the group is left. Raises TrainingError."""
        # What a run that goes on has said before is not news.
        self._read = await asyncio.to_thread(_size, self.folder / "progress.jsonl")
        process = await asyncio.to_thread(self._start)
        try:
            await self.born(process.pid, await asyncio.to_thread(birth, process.pid))
            code = await self._watch(process.pid)
        finally:
            # The thread goes on to the end even if this is cancelled once more.
            await asyncio.to_thread(_end, process, self.mark)
        if code:
            raise TrainingError(await asyncio.to_thread(self._reason, code))

    def _start(self) -> subprocess.Popen[bytes]:
        # Threads that wait must not spin: beside a process that computes, they would make both several times slower.
        defaults = {"OMP_NUM_THREADS": str(usable_cpus()), "OMP_WAIT_POLICY": "passive"}
        environment = {**defaults, **os.environ, MARK: self.mark}
        try:
            with (self.folder / "log.txt").open("ab") as output:
                process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise TrainingError(
                f"The trainer cannot be started ({error.strerror}); see whether it is installed."
            ) from error
        with suppress(OSError):  # whoever talks with the bot goes first
            os.setpriority(os.PRIO_PGRP, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        return process

    async def _watch(self, pid: int) -> int:
        """Tell of its progress until it has ended. Returns its exit code, negative for a signal."""
        last = time.monotonic()
        while True:
            code = await asyncio.to_thread(_exit_code, pid)
            if lines := await asyncio.to_thread(self._news):
                last = time.monotonic()
                for line in lines:
                    self._tell(line)
            if code is not None:
                return code
            if time.monotonic() - last > self.hang_limit:
                raise TrainingError(f"The trainer made no progress for {self.hang_limit:.0f} s and was stopped.")
            await asyncio.sleep(self.poll)

    def _news(self) -> list[bytes]:
        """The whole lines that have come; what is not ended yet is read again."""
        try:
            with (self.folder / "progress.jsonl").open("rb") as file:
                file.seek(self._read)
                whole, end, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + len(end)
        return whole.split(b"\n") if end else []

    def _tell(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            log.warning("a line of the trainer's progress cannot be read")
            return
        self.said = str(event.get("error") or "")
        self.event(event)

    def _reason(self, code: int) -> str:
        tail = _tail(self.folder / "log.txt")
        log.error("the trainer has failed (%d): %s", code, tail.rstrip().rpartition("\n")[2])
        if self.said:
            return self.said
        for sign, sentence in _KNOWN.items():
            if sign in tail:
                return sentence
        if code < 0:
            return f"The trainer was killed ({signal.Signals(-code).name}); perhaps there was not enough memory."
        return f"The trainer failed with exit code {code}; log.txt in the folder of the run says why."


def accelerate(launch: Sequence[str]) -> Callable[[str, Path], list[str]]:
    """The stages as programs under accelerate. launch: more arguments for it."""

    def command(stage: str, folder: Path) -> list[str]:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", *launch]
        if not any(each.replace("-", "_").startswith("__num_cpu_threads_per_process") for each in launch):
            # Its own default is the number of physical cores, also where a process may use more, or fewer.
            launcher += ["--num_cpu_threads_per_process", str(usable_cpus())]
        return [*launcher, "-m", f"qqmem.train.{stage}", "--run", str(folder)]

    return command


def usable_cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def birth(pid: int) -> str:
    """When a process was born, in words that fit no other one with this pid; "" if there is none."""
    if not _PROC.is_dir():
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return done.stdout.strip()
    try:
        # Behind the name, which may hold anything: state, ppid, ..., the time of birth is the 22nd field of all.
        ticks = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()}/{ticks}"
    except (OSError, IndexError):
        return ""


def kill_left(pid: int | None, born: str, mark: str) -> bool:
    """Kill what is left of a group that this program did not start. A reused pid is let live. Returns if any was."""
    mine = [pid] if pid is not None and born and birth(pid) == born else []
    left = [*mine, *marked(mark)]
    for each in mine:
        _signal(os.killpg, each, signal.SIGKILL)
    _kill_marked(mark)
    return bool(left)


def marked(mark: str) -> Iterator[int]:
    """Processes whose environment has the mark; none where /proc does not tell."""
    sign = f"{MARK}={mark}".encode()
    for each in _PROC.glob("[0-9]*") if mark else ():
        try:
            if sign in (each / "environ").read_bytes().split(b"\0"):
                yield int(each.name)
        except OSError:  # it has ended meanwhile, or is somebody else's
            continue


def _kill_marked(mark: str) -> None:
    """Until there is none: one that is being killed may just be starting another."""
    for _ in range(100):
        found = list(marked(mark))
        for each in found:
            _signal(os.kill, each, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Have the whole group end, by itself or not. The pid is not free before `wait`, so it is nobody else's."""
    if _exit_code(process.pid) is None:
        _signal(os.killpg, process.pid, signal.SIGTERM)
        over = time.monotonic() + GRACE
        while _exit_code(process.pid) is None and time.monotonic() < over:
            time.sleep(0.02)
    _signal(os.killpg, process.pid, signal.SIGKILL)
    _kill_marked(mark)
    process.wait()


def _exit_code(pid: int) -> int | None:
    """Of a child that has ended, which stays unreaped; None while it runs."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _signal(send: Callable[[int, int], None], to: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        send(to, number)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _tail(file: Path) -> str:
    with file.open("rb") as opened:
        opened.seek(max(0, _size(file) - _TAIL))
        return opened.read().decode("utf-8", "replace")
