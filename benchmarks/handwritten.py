"""When the starter of the embedded model recalls, on messages that were written by hand and that no generator made.

    python -m benchmarks.handwritten [--release DIR]

The questions of tests/train/handwritten.yaml need a memory; its other messages need none, and neither do people who
tell what the questions ask for. Each is said alone, in private, to the model as it serves; the precision is as if both
were as frequent.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from benchmarks.engine import MODEL, cpu_name
from qqmem.engine import catalog
from qqmem.engine.prompt import Prompts
from qqmem.evals.cases import Case
from qqmem.evals.trigger import Model
from qqmem.server import model_loader
from qqmem.settings import load_settings
from qqmem.train.releases import shipped_for

MESSAGES = Path(__file__).parent.parent / "tests" / "train" / "handwritten.yaml"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, default=shipped_for(MODEL), help="a folder; default: the starter")
    options = parser.parse_args()
    print(f"{date.today()}, {cpu_name()}, {MODEL}")
    asyncio.run(measure(yaml.safe_load(MESSAGES.read_text("utf-8")), options.release))


async def measure(content: dict[str, Any], release: Path) -> None:
    """Ask about every message, and print the shares and what went wrong."""
    settings = load_settings(None, {"model": MODEL})
    chat, folder = settings.chat, catalog.pull(MODEL, lambda *_: None)
    prompts = Prompts.load(chat.language, chat.prompts, chat.prompt_order)
    needed = [one["ask"] for one in content["questions"]]
    needless = [*content["negatives"], *(one["tell"] for one in content["questions"])]
    async with Model.open(model_loader(settings, folder), prompts, settings, 0, release) as model:
        right, wrong = await shares(model, needed), await shares(model, needless)
    recall, false = sum(right) / len(right), sum(wrong) / len(wrong)
    print(f"of {len(right)} that need a memory {recall:.3f}, of {len(wrong)} that need none {false:.3f}")
    print(f"precision {recall / (recall + false):.3f}")
    print("missed:", *(text for text, asked in zip(needed, right, strict=True) if not asked), sep="\n  ")
    print("asked in vain:", *(text for text, asked in zip(needless, wrong, strict=True) if asked), sep="\n  ")


async def shares(model: Model, texts: Sequence[str]) -> list[bool]:
    """Whether each opens with a recall."""
    return [await model(Case("told", text, frozenset(), text)) for text in texts]


if __name__ == "__main__":
    main()
