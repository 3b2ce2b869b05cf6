"""Stage 2: the model learns when it needs a memory, and to read it from its vector.

    OMP_WAIT_POLICY=passive accelerate launch --num_cpu_threads_per_process 2 -m qqmem.train.stage2 --run DIR

On a CPU that also serves, the wait policy is worth a factor of four: idle threads must not spin while the bot writes.

Trained is LoRA on all linear layers of the text model, which begins with what stage 1 made of q and v, if it ran; with
it the rows and the head; and a second adapter on the same layers, which acts only while a memory is read (reading.py)
and learns at a rate of its own. An epoch shows every memory once, in a turn that needs it or under a foreign one, some
times by itself, and a share of ordinary turns (data.py). Of each, only what the model itself is to write is learned,
and logits exist only there. The query of stage 1 is trained along, at a lower weight: it costs nothing, and would drift
away otherwise.

Reads the run directory (records.py), writes stage2/ in it. Killed, it goes on from its last checkpoint when it is
started again, with the same losses as if nothing had been; finished, it does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qqmem.train.batches import Plan
from qqmem.train.common import Stage, is_done, launched, load_base, log, settings_of, start, train
from qqmem.train.data import Example, Examples
from qqmem.train.records import read_run
from qqmem.train.trainee import Trainee


@dataclass(frozen=True, slots=True)
class Stage2(Stage):
    """chat: share of ordinary turns, by tokens. foreign: of the memories, that come up where none is needed.

    quiet: messages that need no memory, for each recall. readings: of each memory by itself, in an epoch.

    text_weight, chat_weight, kl_weight, query_weight, quiet_weight: of the losses text, chat, keep, query, quiet.
    """

    epochs: int = 4
    lr: float = 2e-4
    batch: int = 16
    targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    chat: float = 0.15
    foreign: float = 0.3
    quiet: float = 0.5
    readings: int = 3
    reading_lr: float = 1.5e-3
    reading_rank: int = 8
    text_weight: float = 1.0
    chat_weight: float = 0.1
    kl_weight: float = 3.0
    query_weight: float = 0.3
    quiet_weight: float = 1.0

    @property
    def rates(self) -> tuple[float, float, float]:
        """Stage.rates, with a third."""
        return self.lr, self.head_lr, self.reading_lr


def epoch(write: Examples, settings: Stage2, number: int) -> list[Example]:
    """What one epoch shows."""
    return write.stage2(
        number, chat=settings.chat, foreign=settings.foreign, quiet=settings.quiet, readings=settings.readings
    )


def main(folder: Path) -> int:
    """Train. Returns the exit status. Raises QqmemError for what a person can mend."""
    out = folder / "stage2"
    if is_done(out):
        log.info("stage2 was finished before")
        return 0

    # The run, the base, and what it learns from.
    run = read_run(folder)
    settings = settings_of(run, "stage2", Stage2)
    accelerator = start(run, settings)
    model, write = load_base(run, settings)

    plan = Plan.of(partial(epoch, write, settings), settings.batch, settings.epochs, settings.accumulation)

    weights = {
        "text": settings.text_weight,
        "ask": 1.0,
        "open": 0.3,
        "reply": 1.0,
        "chat": settings.chat_weight,
        "query": settings.query_weight,
        "keep": settings.kl_weight,
        "quiet": settings.quiet_weight,
    }
    begin = folder / "stage1" if is_done(folder / "stage1") else run.starter
    if begin is None:
        log.info("there is no stage 1: the query begins as the base's")
    bare = Trainee(
        model,
        write.tokens,
        run.values,
        run.centre,
        rank=settings.rank,
        targets=settings.targets,
        weights=weights,
        reading_rank=settings.reading_rank,
        begin=begin,
    )
    return train(run, "stage2", accelerator, bare, plan, write.held_out(), settings)


if __name__ == "__main__":
    sys.exit(launched(main, __doc__))
