"""How far a stage is: JSON lines for programs, a bar for people."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

from qqmem.train.records import Run


class Progress:
    """Tells how far a stage is: JSON lines in the run, and a bar for who watches; one process speaks for all.

    steps: of the stage. done: of them, before.
    """

    def __init__(self, run: Run, stage: str, steps: int, done: int, accelerator: Accelerator) -> None:
        self._speaks = accelerator.is_main_process
        self._processes = accelerator.num_processes
        self._path = run.folder / "progress.jsonl"
        self._stage = stage
        self._steps = steps
        self._done = done
        self._tokens = 0
        self._start = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._bar = Bar(*columns, console=console, disable=not (self._speaks and console.is_terminal))
        self._task = self._bar.add_task(stage, total=steps, completed=done)
        self._bar.start()

    def step(self, step: int, loss: Mapping[str, float], tokens: int) -> None:
        """Step `step` is done; this process has read so many tokens."""
        self._tokens += tokens * self._processes
        left = (self._steps - step) * self._seconds / (step - self._done)
        speed = self._tokens / self._seconds
        self._write({"step": step, "steps": self._steps, "loss": loss, "tokens_s": speed, "left_s": left})
        self._bar.update(self._task, completed=step, description=f"{self._stage} {loss['total']:.3f}")

    def summary(self) -> dict[str, float]:
        """Since this start: a stage that was killed has taken longer."""
        seconds = self._seconds
        return {"steps": self._steps, "seconds": seconds, "tokens": self._tokens, "tokens_s": self._tokens / seconds}

    def close(self, *, done: bool = False) -> None:
        """No more steps. done: the stage is finished."""
        self._bar.stop()
        if done:
            self._write({"done": True})

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-6)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._speaks:
            say(self._path, {"stage": self._stage, **line})


def say(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to progress.jsonl. Raises OSError."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with path.open("ab+") as file:
        # A line that a killed program left half is ended before ours begins.
        is_whole = not file.seek(0, os.SEEK_END) or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n"
        file.write(f"{'' if is_whole else chr(10)}{json.dumps({**line, 'time': now})}\n".encode())
