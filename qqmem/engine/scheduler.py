"""Who gets how much of the next step. Policy alone: it knows counts, not tensors."""

from __future__ import annotations

from collections.abc import Sequence

from qqmem.engine.generation import Generation
from qqmem.engine.types import Row


def plan(generations: Sequence[Generation], prefill_chunk: int) -> list[tuple[int, Row]]:
    """The rows of one step, each with the index of its generation.

    Everyone who writes gets one token. What is left of `prefill_chunk` is shared by those who still read their
    prompt, a person's turn before background work, first come first served; so a long prompt delays the others by
    one chunk at most, and one step is never longer than `prefill_chunk` tokens plus the batch.
    """
    rows = [(i, generation.row(1)) for i, generation in enumerate(generations) if not generation.prefilling]
    room = prefill_chunk - len(rows)
    reading = [(i, generation) for i, generation in enumerate(generations) if generation.prefilling]
    for i, generation in sorted(reading, key=lambda pair: pair[1].request.priority):
        if room <= 0:
            break
        row = generation.row(room)
        room -= len(row.tokens)
        rows.append((i, row))
    return rows
