"""Whether a trained model may serve, and how: decided from what the gate has measured (qqmem.train.gate)."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from math import isfinite
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
    before, (after, margin) = _weighed(result["before"], settings)[0], _weighed(result["after"], settings)
    # A starter serves before; it must not let the model drift from the base by a little more each time.
    base = result.get("base") or before
    after = {
        **after,
        "perplexity_rise": _rise(base, after, "perplexity"),
        "perplexity_rise_beside": _rise(base, after, "perplexity_beside"),
    }
    limits = (
        ("recall_at_1", "recall_at_1", "below", settings.recall_at_1),
        ("exact", "exact", "below", settings.exact),
        ("perplexity_rise", "perplexity_rise", "above", settings.perplexity_rise),
        ("perplexity_rise_beside", "perplexity_rise beside a memory", "above", settings.perplexity_rise),
    )
    faults = [
        (said, {"measure": name, "value": after[name], "relation": relation, "bound": bound})
        for name, said, relation, bound in limits
        # Whatever is no number, as of a model that has gone to pieces, is not within a bound.
        if after[name] is not None and not (after[name] >= bound if relation == "below" else after[name] <= bound)
    ]
    reasons = "; ".join(f"{said} is {f['value']:.3f}, {f['relation']} {f['bound']:.3f}" for said, f in faults)
    finds = after["recall_at_1"] is not None and after["recall_at_1"] >= settings.recall_at_1
    decodable = tuple(ids[row] for row in result["decodable"])
    told = {key: result[key] for key in ("memories", "base", "compared") if result.get(key)}
    details = {
        **told,
        "before": before,
        "after": after,
        "ids": list(ids),
        "decodable": list(decodable),
        "thresholds": settings.model_dump(),
        "faults": [fault for _, fault in faults],
    }
    return Report(
        passed=not faults,
        reason=f"The gate refused it: {reasons}." if faults else "",
        metrics={name: value for name, value in after.items() if isinstance(value, int | float) and isfinite(value)},
        decodable=decodable,
        trigger="model" if _knows_when(after, settings) else "both",
        lanes=_TRAINED if finds else _DAY_ZERO,
        details=_without_nan(details),
        margin=margin,
    )


def _weighed(measures: Mapping[str, Any], settings: Gate) -> tuple[dict[str, Any], float]:
    """Measures with shares in place of leads, and the margin at which they are so: the least that is precise enough.

    If none is without asking too seldom, it is 0. The precision is as if messages of both kinds were as frequent.
    """
    needed, needless = measures["leads_needed"], measures["leads_needless"]
    margins = [0.0, *sorted(lead for lead in needless if lead > 0)]
    found = [(_shares(needed, needless, margin), margin) for margin in margins]
    suits = (pair for pair in found if _knows_when(pair[0], settings))
    shares, margin = next(suits, found[0])
    rest = {name: value for name, value in measures.items() if not name.startswith("leads_")}
    return {**rest, **shares}, margin


def _shares(needed: Sequence[float], needless: Sequence[float], margin: float) -> dict[str, float | None]:
    """Of recalls where they are needed and where not; None for what there is nothing to measure by."""
    right, wrong = (
        sum(lead > margin for lead in leads) / len(leads) if leads else None for leads in (needed, needless)
    )
    recalls = None if right is None or wrong is None else right + wrong
    precision = right / recalls if right is not None and recalls else None
    return {"trigger_recall": right, "trigger_false": wrong, "trigger_precision": precision}


def _knows_when(shares: Mapping[str, float | None], settings: Gate) -> bool:
    is_precise = (shares["trigger_precision"] or 0) >= settings.trigger_precision
    return is_precise and (shares["trigger_recall"] or 0) >= settings.trigger_recall


def _rise(base: Mapping[str, float | None], after: Mapping[str, float | None], name: str) -> float | None:
    """By how much ordinary turns are written worse than by the base that reads the same, the memory included."""
    old, new = base[name], after[name]
    return new / old - 1 if old and new else None


def _without_nan(content: Any) -> Any:
    """JSON knows no such numbers: None."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content


def _read(folder: Path) -> tuple[dict[str, Any], list[int]]:
    lines = (folder / "memories.jsonl").read_text("utf-8").splitlines()
    return json.loads((folder / "gate.json").read_text("utf-8")), [json.loads(line)["id"] for line in lines]


async def _note_nothing(pid: int, born: str) -> None:
    pass
