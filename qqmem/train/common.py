"""What both stages do alike: settings, loading the base, the steps, checkpoints, and telling how far they are."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from qqmem.engine.injection import begin_rows
from qqmem.engine.model import model_class
from qqmem.engine.recall import RECALL
from qqmem.engine.tokenizer import ChatTokenizer
from qqmem.errors import ModelError, QqmemError, SettingsError
from qqmem.train.batches import Plan, some
from qqmem.train.data import Example, Examples
from qqmem.train.packing import Row, pack
from qqmem.train.progress import Progress, say
from qqmem.train.reading import NAME as READING
from qqmem.train.records import Run
from qqmem.train.trainee import LOSSES, Trainee

log = logging.getLogger(__name__)

_TESTS = 200
"""Queries that no step shows are looked for in silence: not for so long that it seems to hang."""
STOPPED = 143
"""Exit status after SIGTERM: a checkpoint is there to go on from."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Settings that both stages have; the fields are described in docs/settings.md, section train."""

    epochs: int = 1
    lr: float = 1e-3
    head_lr: float = 5e-4
    batch: int = 12
    rank: int = 8
    targets: Sequence[str] = ()
    warmup: float = 0.05
    clip: float = 1.0
    accumulation: int = 1
    checkpointing: bool = False
    save_steps: int = 50
    max_tokens: int = 1024
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"

    @property
    def rates(self) -> tuple[float, float, float]:
        """Learning rates of the adapter, of the head, and of the adapter for reading, which only stage 2 has."""
        return self.lr, self.head_lr, 0.0


S = TypeVar("S", bound=Stage)


def settings_of(run: Run, name: str, kind: type[S]) -> S:
    """Those of the run, over our own. Raises SettingsError for what no program can do."""
    given = {**run.settings, **run.settings.get(name, {})}
    settings = kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})
    for field in ("epochs", "batch", "rank", "accumulation", "save_steps"):
        if getattr(settings, field) < 1:
            raise SettingsError(f"Setting train.{name}.{field} must be 1 or more.")
    return settings


def launched(main: Callable[[Path], int], doc: str | None, argv: Sequence[str] | None = None) -> int:
    """Run a program on the directory that the command line names.

    What a person did wrong is one line on stderr and one in the run's progress.jsonl, and status 2.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the directory of the run")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stdout)
    folder = parser.parse_args(argv).run
    try:
        return main(folder)
    except QqmemError as error:
        sys.stderr.write(f"{error}\n")
        with suppress(OSError):  # there may be no such run
            say(folder / "progress.jsonl", {"stage": Path(inspect.getfile(main)).stem, "error": str(error)})
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def start(run: Run, settings: Stage) -> Accelerator:
    """Devices and precision are accelerate's; every process begins with the same seed."""
    torch.manual_seed(run.seed)
    return Accelerator(mixed_precision="no" if settings.dtype == "float32" else "bf16")


def load_base(run: Run, settings: Stage) -> tuple[PreTrainedModel, Examples]:
    """The base model of a run, and who writes examples for it. Raises ModelError."""
    disable_progress_bar()
    dtype = torch.float32 if settings.dtype == "float32" else torch.bfloat16
    try:
        config = AutoConfig.from_pretrained(run.model)
        model = model_class(config).from_pretrained(run.model, dtype=dtype, local_files_only=True).eval()
        plain = AutoTokenizer.from_pretrained(run.model, local_files_only=True)
    except Exception as error:  # transformers and safetensors have errors of their own for a broken folder
        raise ModelError(f"The model in {run.model.name} cannot be loaded: {error}") from error
    tokenizer = ChatTokenizer(plain, model.get_input_embeddings().num_embeddings)
    if tokenizer.recall is None:
        raise ModelError(f"{run.model.name} has no free rows for the tokens of recalls, so it cannot be trained.")
    hidden = model.get_input_embeddings().embedding_dim
    if run.values.shape[1] != hidden:
        raise ModelError(
            f"The vectors of this run have {run.values.shape[1]} numbers, the model {hidden}; export again."
        )
    # As load_model does: what is learned begins where the engine begins.
    begin_rows(model, tokenizer.recall, {t: tokenizer.encode(s) for t, s in zip(tokenizer.recall, RECALL, strict=True)})
    if settings.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, writer_of(run, tokenizer, settings.max_tokens)


def writer_of(run: Run, tokenizer: ChatTokenizer, max_tokens: int) -> Examples:
    """Who writes examples for a run, as its model's chat template ends thoughts and turns."""
    plain = AutoTokenizer.from_pretrained(run.model, local_files_only=True)
    close = tokenizer.encode("\n</think>\n")
    if tokenizer.thinks:  # its own mark, which plain text never is
        close = plain.encode("\n</think>\n\n", add_special_tokens=False)
    return Examples(run, tokenizer, close, cast(int, plain.eos_token_id), max_tokens)


# --- the steps


def train(
    run: Run, stage: str, accelerator: Accelerator, bare: Trainee, plan: Plan, tests: Sequence[Example], settings: Stage
) -> int:
    """Take the steps of a stage that are left, and write what it has made. Returns the exit status of its program.

    bare: what is trained. tests: queries that no step shows; some of them are looked for before the first and after the
    last.
    """
    out = run.folder / stage
    tests = some(tests, _TESTS)
    trainee: Any  # what accelerate makes of it
    trainee, optimizer = accelerator.prepare(bare, optimizer_of(bare, settings))
    step, notes = load_checkpoint(out, bare, optimizer)
    if not notes:
        with accelerator.autocast():
            notes = {"before": retrieval(bare.ranks(tests, settings.batch))}
    stop = Stop(accelerator)
    progress = Progress(run, stage, plan.steps, step, accelerator)
    losses: dict[str, float] = {}

    trainee.train()
    for batches in plan.run(step, accelerator.process_index, accelerator.num_processes):
        rows = [pack(batch, accelerator.device) for batch in batches]
        losses = learn(accelerator, trainee, optimizer, rows, rate(step, plan.steps, settings.warmup), settings)
        step += 1
        progress.step(step, losses, sum(len(row.ids) for row in rows))
        is_stopped = bool(stop)
        if is_stopped or step % settings.save_steps == 0:
            save_checkpoint(accelerator, out, step, bare, optimizer, notes)
        if is_stopped:
            progress.close()
            return STOPPED

    trainee.eval()
    with accelerator.autocast():
        notes["after"] = retrieval(bare.ranks(tests, settings.batch))
    finish(accelerator, out, bare, {"stage": stage, "loss": losses, "held_out": notes, **progress.summary()})
    progress.close(done=True)
    return 0


def optimizer_of(trainee: Trainee, settings: Stage) -> torch.optim.AdamW:
    """In three groups, as `learn` sets their rates. No decay: an adapter is small, and a row is none of a matrix."""
    trained = [(name, weight) for name, weight in trainee.peft.named_parameters() if weight.requires_grad]
    reading = [weight for name, weight in trained if f".{READING}." in name]
    adapter = [weight for name, weight in trained if f".{READING}." not in name]
    groups = [
        {"params": params, "lr": lr}
        for params, lr in zip(
            ([*adapter, trainee.rows], [trainee.head.weight, trainee.log_scale], reading), settings.rates, strict=True
        )
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate: up over the first steps, then down to a tenth in a straight line. step: from 0."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 1 - 0.9 * (step - rising) / max(1, steps - rising)


def learn(
    accelerator: Accelerator, trainee: Any, optimizer: Any, rows: Sequence[Row], share: float, settings: Stage
) -> dict[str, float]:
    """One step on one batch or several. Returns the loss and its parts, means over batches and processes."""
    for group, lr in zip(optimizer.param_groups, settings.rates, strict=True):
        group["lr"] = lr * share
    sums, num = (torch.zeros(1 + len(LOSSES), device=accelerator.device) for _ in range(2))
    for n, row in enumerate(rows):
        # Gradients of several processes are added up only once.
        with nullcontext() if n + 1 == len(rows) else accelerator.no_sync(trainee):
            total, parts = trainee(row)
            accelerator.backward(total / len(rows))
        for place, loss in enumerate((total.detach(), *(parts.get(name) for name in LOSSES))):
            if loss is not None:
                sums[place] += loss
                num[place] += 1
    accelerator.clip_grad_norm_(trainee.parameters(), settings.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    sums, num = (cast(Tensor, accelerator.reduce(one)) for one in (sums, num))
    means = {name: float(sums[n] / num[n]) for n, name in enumerate(("total", *LOSSES)) if num[n]}
    if not all(map(torch.isfinite, map(torch.tensor, means.values()))):
        raise FloatingPointError(f"the loss is no number any more: {means}")
    return means


class Stop:
    """Whether the program was asked to end. SIGTERM ends it behind the step that is running."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        """The same in all processes: none may leave the others waiting for it."""
        if self._accelerator.num_processes == 1:
            return self._asked
        asked = torch.tensor(float(self._asked), device=self._accelerator.device)
        return bool(cast(Tensor, self._accelerator.reduce(asked)) > 0)


def retrieval(ranks: Sequence[int]) -> dict[str, float]:
    """Of n queries the share whose memory is the first, or among the first five, of all of the run."""
    shares = {f"r@{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5)} if ranks else {}
    return {"n": len(ranks), **shares}


# --- files


def is_done(folder: Path) -> bool:
    """Whether a stage has been finished; its metrics are written last."""
    return (folder / "metrics.json").exists()


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    step: int,
    trainee: Trainee,
    optimizer: Any,
    notes: Mapping[str, Any],
) -> None:
    """All that is needed to go on behind `step`, by one process for all.

    The learning rate and the place in the data follow from the step.
    """
    if not accelerator.is_main_process:
        return
    state = {
        "step": step,
        "trainee": {name: weight.detach() for name, weight in trainee.named_parameters() if weight.requires_grad},
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "notes": dict(notes),
    }
    with _put(folder / f"checkpoint-{step}") as fresh:
        torch.save(state, fresh / "state.pt")
    for old in _checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, trainee: Trainee, optimizer: Any) -> tuple[int, dict[str, Any]]:
    """Go on from the last checkpoint. Returns how many steps are done, and the notes; (0, {}) if there is none."""
    found = _checkpoints(folder)
    if not found:
        return 0, {}
    state = torch.load(found[-1] / "state.pt", map_location="cpu", weights_only=True)
    own = dict(trainee.named_parameters())
    with torch.no_grad():
        for name, weight in state["trainee"].items():
            own[name].copy_(weight)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    log.info("%s goes on behind step %d", folder.name, state["step"])
    return state["step"], state["notes"]


def finish(accelerator: Accelerator, folder: Path, trainee: Trainee, metrics: Mapping[str, Any]) -> None:
    """Write what the stage has made, and last its metrics: with them it is done. One process does it for all."""
    if not accelerator.is_main_process:
        return
    with _put(folder / "made") as fresh:
        trainee.save(fresh)
    for path in (folder / "made").iterdir():
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    (folder / "made").rmdir()
    fresh = folder / "metrics.json.new"
    fresh.write_text(json.dumps(metrics, indent=1), "utf-8")
    _sync(fresh)
    fresh.replace(folder / "metrics.json")
    for old in _checkpoints(folder):
        shutil.rmtree(old)


def _checkpoints(folder: Path) -> list[Path]:
    """The whole ones, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


@contextmanager
def _put(target: Path) -> Iterator[Path]:
    """A folder that appears under its name when it is whole and on the disk."""
    fresh = target.with_name(f"{target.name}.new")
    for old in (fresh, target):
        shutil.rmtree(old, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    for path in [*fresh.rglob("*"), fresh]:
        _sync(path)
    fresh.replace(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
