"""What the training programs cost beside a bare loop, and what only some logits save, in one run.

    OMP_WAIT_POLICY=passive python -m benchmarks.training [--rounds 5]

The same steps of stage 2 on the embedded model, on generated memories, three ways:

ours: the loop of qqmem.train.stage2, with packing, progress lines and accelerate around each step.
bare: forward, backward and AdamW over the same packed rows, packed before, and nothing else.
padded: the same examples as transformers and peft take them: a padded batch, with logits at every place.

The rounds alternate. Tokens are those of the packed rows in all three, so that the ratios are of the time for one step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine import MODEL, cpu_name, ratio
from qqmem.engine import catalog
from qqmem.engine.prompt import Prompts
from qqmem.train.common import learn, load_base, optimizer_of, settings_of, start
from qqmem.train.data import Example
from qqmem.train.judged import CHUNK
from qqmem.train.packing import Row, pack
from qqmem.train.progress import Progress
from qqmem.train.reading import NAME as READING
from qqmem.train.records import Run, read_run
from qqmem.train.stage2 import Stage2, epoch
from qqmem.train.starter import write_starter
from qqmem.train.trainee import LOSSES, Trainee

STEPS = 2
"""Of one round."""
BATCH = 8
"""Turns of one step: with twice as many the padded batch, with its logits at every place, does not fit in 24 GB."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = catalog.pull(MODEL, lambda *_: None)
    print(f"{date.today()}, {cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        compare(a_run(Path(folder), model), options.rounds)


def a_run(folder: Path, model: Path) -> Run:
    """Sixty generated memories. Their vectors are drawn: they change no figure here."""
    write_starter(folder, seed=0, facts=60, hold_out=0)
    hidden = json.loads((model / "config.json").read_text("utf-8"))["hidden_size"]
    values = np.random.default_rng(0).normal(size=(60, hidden)).astype(np.float32)
    np.save(folder / "values.npy", values / np.linalg.norm(values, axis=-1, keepdims=True))
    prompts = Prompts.load("zh", None, ["persona", "rules", "output", "actions", "context"])
    run = {"seed": 0, "model": str(model), "prompts": dict(prompts.parts), "bot_name": "小忆"}
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    return read_run(folder)


def compare(run: Run, rounds: int) -> None:
    """Take the steps each way, in rounds, and print."""
    settings = settings_of(run, "stage2", Stage2)
    accelerator = start(run, settings)
    model, write = load_base(run, settings)
    weights = dict.fromkeys(LOSSES, 1.0)
    bare = Trainee(
        model,
        write.tokens,
        run.values,
        run.centre,
        rank=settings.rank,
        targets=settings.targets,
        weights=weights,
        reading_rank=settings.reading_rank,
    )
    trainee: Any
    trainee, optimizer = accelerator.prepare(bare, optimizer_of(bare, settings))
    examples = epoch(write, settings, 0)
    batches = [examples[n * BATCH : (n + 1) * BATCH] for n in range(STEPS + 1)]
    rows = [pack(batch) for batch in batches]
    progress = Progress(run, "stage2", 10_000, 0, accelerator)

    def ours(number: int) -> None:
        row = pack(batches[number], accelerator.device)
        losses = learn(accelerator, trainee, optimizer, [row], 1e-6, settings)
        progress.step(number + 1, losses, len(row.ids))

    def plain(number: int) -> None:
        with accelerator.autocast():
            total, _ = bare(rows[number])
        _step(total, bare, optimizer)

    def padded(number: int) -> None:
        with accelerator.autocast():
            total = _padded_loss(bare, batches[number])
        _step(total, bare, optimizer)

    ways: dict[str, Callable[[int], None]] = {"ours": ours, "bare": plain, "padded": padded}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, step in ways.items():
            began = time.perf_counter()
            for number in range(1, STEPS + 1):
                step(number)
            if turn:  # the first is for warming up
                seconds[name].append(time.perf_counter() - began)
    progress.close()
    report(seconds, rows[1:], batches[1:], bare)


def _step(total: torch.Tensor, trainee: Trainee, optimizer: Any) -> None:
    total.backward()
    torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _padded_loss(trainee: Trainee, batch: Sequence[Example]) -> torch.Tensor:
    """Cross-entropy of all that is learned, as `labels` of a padded batch, by one adapter.

    No vectors, no adapter for reading, no divergence, no query.
    """
    longest = max(len(one.ids) for one in batch)
    ids, labels = torch.zeros(len(batch), longest, dtype=torch.long), torch.full((len(batch), longest), -100)
    for n, one in enumerate(batch):
        ids[n, : len(one.ids)] = torch.tensor(one.ids)
        for place, part in enumerate(one.parts):
            if part:
                labels[n, place] = one.ids[place]
    base: Any = trainee.peft.get_base_model()
    base.get_decoder().set_attn_implementation("sdpa")
    adapters: Any = trainee.peft.base_model
    adapters.set_adapter("default")
    try:
        found: torch.Tensor = trainee.peft(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels).loss
        return found
    finally:
        base.get_decoder().set_attn_implementation("packed")
        adapters.set_adapter(["default", READING])


def report(
    seconds: dict[str, list[float]], rows: Sequence[Row], batches: Sequence[Sequence[Example]], trainee: Trainee
) -> None:
    """Print rates, ratios, and what the logits take at one time."""
    tokens = sum(len(row.ids) for row in rows)
    for name, found in seconds.items():
        print(f"{name:8} {tokens / statistics.median(found):7.1f} tokens/s")
    print(f"ours / bare   {ratio(seconds['bare'], seconds['ours']):.3f}")
    print(f"ours / padded {ratio(seconds['padded'], seconds['ours']):.3f}")
    base: Any = trainee.peft.get_base_model()
    vocabulary = base.get_output_embeddings().weight.shape[0]
    places = max(len(batch) * max(len(one.ids) for one in batch) for batch in batches)
    learned = max(sum(bool(part) for one in batch for part in one.parts) for batch in batches)
    ours, theirs = _megabytes(min(CHUNK, learned), vocabulary), _megabytes(places, vocabulary)
    print(f"logits at one time: {ours} of {learned} learned places; padded {theirs} of {places} places")


def _megabytes(places: int, vocabulary: int) -> str:
    return f"{places * vocabulary * 4 / 2**20:.0f} MB"


if __name__ == "__main__":
    main()
