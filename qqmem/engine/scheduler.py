"""Who gets how much of the next step. Policy alone: it knows counts, not tensors."""

from __future__ import annotations

from collections.abc import Sequence

from qqmem.engine.generation import Generation
from qqmem.engine.types import TURN, Row


def plan(generations: Sequence[Generation], prefill_chunk: int) -> list[tuple[int, Row]]:
    """The rows of one step, each with the index of its generation.

    Everyone who writes gets one token. What is left of `prefill_chunk` is shared by those who have more to read, a
    prompt or a memory, first come first served; so a long prompt delays the others by one chunk at most, and one step
    is never longer than `prefill_chunk` tokens plus the batch. While somebody waits for a turn, background work reads
    nothing: a token of its own costs the others next to nothing, a chunk would. What reads by the base alone rests
    meanwhile: it needs a forward of its own.
    """
    going = [(i, generation) for i, generation in enumerate(generations) if not generation.is_waiting]
    is_turn = any(one.request.priority == TURN and not one.request.base for _, one in going)
    if is_turn:
        going = [(i, generation) for i, generation in going if not generation.request.base]
    rows = [(i, generation.row(1)) for i, generation in going if len(generation.pending) == 1]
    room = prefill_chunk - len(rows)
    reading = [(i, generation) for i, generation in going if len(generation.pending) > 1]
    if is_turn:
        reading = [(i, generation) for i, generation in reading if generation.request.priority == TURN]
    for i, generation in reading:
        if room <= 0:
            break
        row = generation.row(room)
        room -= len(row.tokens)
        rows.append((i, row))
    return rows
