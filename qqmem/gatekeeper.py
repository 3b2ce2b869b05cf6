"""Whether a trained model may serve, and how: decided from what the gate has measured (qqmem.train.gate)."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qqmem.run_parts import Report
from qqmem.settings_train import Gate
from qqmem.trainer import Trainer

_HOUR = 3600.0
_DAY_ZERO = {"state": 0.0, "text": 1.0, "lexical": 3.0}
_TRAINED = _DAY_ZERO | {"state": 2.0}


class Gatekeeper:
    """`run_parts.Gate`: has stage2 of a run measured by a program of its own, and judges."""

    def __init__(self, settings: Gate) -> None:
        self._settings = settings

    async def __call__(self, folder: Path) -> Report:
        """Raises TrainingError if it cannot be measured."""
        command = [sys.executable, "-m", "qqmem.train.gate", "--run", str(folder)]
        # It tells nothing while it measures.
        await Trainer(command, folder, uuid.uuid4().hex, lambda _: None, _note_nothing, _HOUR).run()
        result, ids = await asyncio.to_thread(_read, folder)
        return decide(result, self._settings, ids)


def decide(result: Mapping[str, Any], settings: Gate, ids: Sequence[int]) -> Report:
    """result: of gate.json. ids: of the memories of the run, in their order.

    What could not be measured decides nothing: a run without held-out questions cannot fail by them.
    """
    before, after = result["before"], result["after"]
    rise, beside = _rise(before, after, "perplexity"), _rise(before, after, "perplexity_beside")
    faults = [
        f"{name} is {value:.3f}, {relation} {bound:.3f}"
        for name, value, relation, bound, is_fault in (
            _below("recall_at_1", after["recall_at_1"], settings.recall_at_1),
            _below("exact", after["exact"], settings.exact),
            _above("perplexity_rise", rise, settings.perplexity_rise),
            _above("perplexity_rise beside a memory", beside, settings.perplexity_rise),
        )
        if is_fault
    ]
    finds = after["recall_at_1"] is not None and after["recall_at_1"] >= settings.recall_at_1
    knows_when = (after["trigger_recall"] or 0) >= settings.trigger_recall
    is_precise = (after["trigger_precision"] or 0) >= settings.trigger_precision
    return Report(
        passed=not faults,
        reason=f"The gate refused it: {'; '.join(faults)}." if faults else "",
        metrics={**after, "perplexity_rise": rise, "perplexity_rise_beside": beside},
        decodable=tuple(ids[row] for row in result["decodable"]),
        trigger="model" if knows_when and is_precise else "both",
        lanes=_TRAINED if finds else _DAY_ZERO,
        details={"before": before, "after": after, "memories": result["memories"]},
    )


def _below(name: str, value: float | None, bound: float) -> tuple[str, float, str, float, bool]:
    return name, value or 0.0, "below", bound, value is not None and value < bound


def _above(name: str, value: float | None, bound: float) -> tuple[str, float, str, float, bool]:
    return name, value or 0.0, "above", bound, value is not None and value > bound


def _rise(before: Mapping[str, float | None], after: Mapping[str, float | None], name: str) -> float | None:
    """By how much ordinary turns are written worse than by the base that reads nothing beside them."""
    old, new = before["perplexity"], after[name]
    return new / old - 1 if old and new else None


def _read(folder: Path) -> tuple[dict[str, Any], list[int]]:
    lines = (folder / "memories.jsonl").read_text("utf-8").splitlines()
    return json.loads((folder / "gate.json").read_text("utf-8")), [json.loads(line)["id"] for line in lines]


async def _note_nothing(pid: int, born: str) -> None:
    pass
