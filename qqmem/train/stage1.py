"""Stage 1: the state in which the model writes `<recall>` learns to point at the memory that is needed.

    OMP_WAIT_POLICY=passive accelerate launch --num_cpu_threads_per_process 2 -m qqmem.train.stage1 --run DIR

On a CPU that also serves, the wait policy is worth a factor of four: idle threads must not spin while the bot writes.

Trained are LoRA on q and v, the rows of the recall tokens and the query head, by InfoNCE of real cues, in the real chat
template, against the values of all memories of the run: they are frozen vectors, so that every memory can be a
negative of every cue, the nearest ones and those of the same person among them. Ordinary turns, by cross-entropy and by
KL to the base, keep the model what it is.

Reads the run directory (records.py), writes stage1/ in it. Killed, it goes on from its last checkpoint when it is
started again, with the same losses as if nothing had been; finished, it does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qqmem.train.batches import Plan
from qqmem.train.common import Stage, is_done, launched, load_base, log, settings_of, start, train
from qqmem.train.data import Example
from qqmem.train.records import read_run
from qqmem.train.trainee import Trainee


@dataclass(frozen=True, slots=True)
class Stage1(Stage):
    """loss, cues: `mse` and `text` are the recipe that ours is measured against: copy a memory's vector from its text.

    chat: ordinary turns for each 32 cues. lm_weight: of all cross-entropy. kl_weight: of the divergence in them.
    """

    epochs: int = 3
    batch: int = 32
    targets: Sequence[str] = ("q_proj", "v_proj")
    loss: Literal["infonce", "mse"] = "infonce"
    cues: Literal["chat", "text"] = "chat"
    chat: int = 2
    lm_weight: float = 0.1
    kl_weight: float = 1.0


def main(folder: Path) -> int:
    """Train. Returns the exit status. Raises QqmemError for what a person can mend."""
    out = folder / "stage1"
    if is_done(out):
        log.info("stage1 was finished before")
        return 0

    # The run, the base, and what it learns from.
    run = read_run(folder)
    settings = settings_of(run, "stage1", Stage1)
    accelerator = start(run, settings)
    model, write = load_base(run, settings)

    def epoch(number: int) -> list[Example]:
        return write.stage1(number, chat=settings.chat) if settings.cues == "chat" else write.text_queries()

    # Without any cue there are no steps, and the stage ends with what the base can do.
    plan = Plan.of(epoch, settings.batch, settings.epochs, settings.accumulation)

    weights = {
        "query": 1.0,
        "ask": settings.lm_weight,
        "open": settings.lm_weight,
        "chat": settings.lm_weight,
        "keep": settings.kl_weight,
    }
    bare = Trainee(
        model,
        write.tokens,
        run.values,
        run.centre,
        rank=settings.rank,
        targets=settings.targets,
        weights=weights,
        loss=settings.loss,
        begin=run.starter,
    )
    return train(run, "stage1", accelerator, bare, plan, write.held_out(), settings)


if __name__ == "__main__":
    sys.exit(launched(main, __doc__))
