"""The programs, through the command line that accelerate has, and killed wherever it hurts."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file

from qqmem.train.common import STOPPED, rate
from tests.train.runs import MEMORIES, SETTINGS, THINKING, losses, make_run, save_model

Run = Callable[..., Path]
STAGES = ("stage1", "stage2")

# Most of it is the import of torch, in processes of their own: minutes where others keep the cores busy.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Starts programs in a second instead of ten: torch and peft are imported once, and before any thread runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["qqmem.train.stage1", "qqmem.train.stage2"])
    return context


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path, forks: ForkServerContext) -> Path:
    """A run that nobody disturbed."""
    run = make_run(tmp_path_factory.mktemp("trained") / "run", model)
    assert [train(forks, stage, run) for stage in STAGES] == [0, 0]
    return run


def train_two(forks: ForkServerContext, stage: str, run: Path, stop_at: int = 0) -> list[int | None]:
    """As accelerate starts two processes. stop_at: the step behind which one of them is asked to stop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    two = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    ranks = [two | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes: list[Any] = [forks.Process(target=_program, args=(stage, run, rank)) for rank in ranks]
    for process in processes:
        process.start()
    if stop_at:
        at_step(processes[0], run, stage, stop_at)
        os.kill(processes[1].pid, signal.SIGTERM)
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def _program(stage: str, run: Path, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    sys.stderr = (run / "stderr.txt").open("a")
    from qqmem.train import common, stage1, stage2

    sys.exit(common.launched({"stage1": stage1, "stage2": stage2}[stage].main, "", ["--run", str(run)]))


def begin(forks: ForkServerContext, stage: str, run: Path) -> Any:
    process = forks.Process(target=_program, args=(stage, run, {}))
    process.start()
    return process


def train(forks: ForkServerContext, stage: str, run: Path) -> int:
    process = begin(forks, stage, run)
    process.join(120)
    return -1 if process.exitcode is None else process.exitcode


def at_step(process: Any, run: Path, stage: str, step: int) -> None:
    """Wait until a step has been told."""
    path, deadline = run / "progress.jsonl", time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        text = path.read_text() if path.exists() else ""
        if any(f'"{stage}", "step": {step},' in line for line in text.splitlines()):
            return
        time.sleep(0.002)


def launch(run: Path, stage: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    kind = ["--cpu"] if processes == 1 else ["--multi_gpu", "--main_process_port", "0"]
    command = [*accelerate, "--dynamo_backend", "no", *kind, "--num_processes", str(processes)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command += ["-m", f"qqmem.train.{stage}", "--run", str(run)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)


# --- through the command line


def test_one_process_under_accelerate_makes_what_a_fork_made(tmp_path: Path, model: Path, trained: Path) -> None:
    run = make_run(tmp_path / "run", model)
    done = launch(run, "stage1")
    assert done.returncode == 0, done.stderr
    assert losses(run, "stage1") == losses(trained, "stage1")


def test_two_processes_repeat_themselves_exactly(tmp_path: Path, model: Path, forks: ForkServerContext) -> None:
    settings = SETTINGS | {"stage1": {"epochs": 1, "batch": 3}, "stage2": {"epochs": 1, "batch": 5}, "accumulation": 2}
    runs = [make_run(tmp_path / name, model, settings=settings) for name in "ab"]
    for run in runs:
        done = launch(run, "stage1", 2)
        assert done.returncode == 0, done.stderr
        assert train_two(forks, "stage2", run) == [0, 0]
    for stage in STAGES:
        first, second = (losses(run, stage) for run in runs)
        assert first == second
        assert [step for step, _ in first] == list(range(1, len(first) + 1))


def test_two_processes_stop_and_go_on_together(tmp_path: Path, model: Path, forks: ForkServerContext) -> None:
    settings = SETTINGS | {"stage1": {"epochs": 4, "batch": 3}}
    whole, stopped = (make_run(tmp_path / name, model, settings=settings) for name in "ab")
    assert train_two(forks, "stage1", whole) == [0, 0]
    assert train_two(forks, "stage1", stopped, stop_at=2) == [STOPPED, STOPPED]
    assert train_two(forks, "stage1", stopped) == [0, 0]
    assert losses(stopped, "stage1") == losses(whole, "stage1")


# --- what is there in the end


def test_a_stage_leaves_an_adapter_the_small_part_and_its_metrics(trained: Path) -> None:
    for stage in STAGES:
        folder = trained / stage
        assert sorted(path.name for path in folder.iterdir()) == ["adapter", "metrics.json", "recall.safetensors"]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["steps"] == len(losses(trained, stage))
        assert metrics["held_out"]["after"]["n"] == 1
    lines = [json.loads(line) for line in (trained / "progress.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if line.get("done")] == list(STAGES)
    last = [line for line in lines if line["stage"] == "stage2"][-2]
    assert set(last) == {"stage", "step", "steps", "loss", "tokens_s", "left_s", "time"}
    assert last["left_s"] == 0
    names = set(load_file(trained / "stage2" / "adapter" / "adapter_model.safetensors"))
    assert "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight" in names


def test_stage_2_begins_where_stage_1_ended(
    tmp_path: Path, model: Path, forks: ForkServerContext, trained: Path
) -> None:
    alone = make_run(tmp_path / "run", model)
    assert train(forks, "stage2", alone) == 0
    assert losses(alone, "stage2")[0] != losses(trained, "stage2")[0]


def test_a_finished_stage_is_not_run_again(trained: Path, forks: ForkServerContext) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.name != "stderr.txt"}
    assert [train(forks, stage, trained) for stage in STAGES] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_seed_is_another_run(tmp_path: Path, model: Path, forks: ForkServerContext, trained: Path) -> None:
    run = make_run(tmp_path / "run", model, seed=8)
    assert train(forks, "stage1", run) == 0
    assert losses(run, "stage1") != losses(trained, "stage1")


# --- killed and stopped


@given(stage=st.sampled_from(STAGES), kills=st.lists(st.integers(1, 7), min_size=1, max_size=2))
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_killed_anywhere_it_goes_on_with_the_same_losses(
    stage: str,
    kills: list[int],
    model: Path,
    forks: ForkServerContext,
    trained: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = make_run(tmp_path_factory.mktemp("killed") / "run", model)
    if stage == "stage2":
        (run / "stage1").symlink_to(trained / "stage1")
    for step in kills:
        process = begin(forks, stage, run)
        at_step(process, run, stage, step)
        process.kill()
        process.join()
    assert train(forks, stage, run) == 0
    assert losses(run, stage) == losses(trained, stage)
    weights = [load_file(one / stage / "recall.safetensors")["rows"] for one in (run, trained)]
    assert weights[0].equal(weights[1])
    assert not list((run / stage).glob("checkpoint-*"))


def test_a_checkpoint_that_was_being_written_is_none(
    tmp_path: Path, model: Path, forks: ForkServerContext, trained: Path
) -> None:
    run = make_run(tmp_path / "run", model)
    half = run / "stage1" / "checkpoint-4.new"
    half.mkdir(parents=True)
    (half / "state.pt").write_bytes(b"half")
    with (run / "progress.jsonl").open("w") as file:
        file.write('{"stage": "stage1", "st')  # torn
    assert train(forks, "stage1", run) == 0
    text = (run / "progress.jsonl").read_text()
    (run / "progress.jsonl").write_text(text.partition("\n")[2])
    assert losses(run, "stage1") == losses(trained, "stage1")


def test_asked_to_stop_it_saves_and_goes_on_later(
    tmp_path: Path, model: Path, forks: ForkServerContext, trained: Path
) -> None:
    run = make_run(tmp_path / "run", model, settings=SETTINGS | {"save_steps": 1000})
    process = begin(forks, "stage2", run)
    at_step(process, run, "stage2", 1)
    os.kill(process.pid, signal.SIGTERM)
    process.join(120)
    assert process.exitcode == STOPPED
    told = len(losses(run, "stage2"))
    assert [path.name for path in (run / "stage2").iterdir()] == [f"checkpoint-{told}"]
    assert train(forks, "stage2", run) == 0


# --- little to learn from


@pytest.mark.parametrize("changes", ["one", "no cues", "no sft", "thinking", "mse", "checkpointing", "half"])
def test_it_trains_on_whatever_there_is(tmp_path: Path, model: Path, forks: ForkServerContext, changes: str) -> None:
    given: dict[str, Any] = {"settings": SETTINGS | {"stage1": {"epochs": 1}, "stage2": {"epochs": 1}}}
    match changes:
        case "one":
            given |= {"memories": MEMORIES[:1], "sft": [], "negatives": []}
        case "no cues":
            given |= {"memories": MEMORIES[2:], "sft": [], "negatives": []}
        case "no sft":
            given |= {"sft": []}
        case "thinking":
            model = save_model(tmp_path / "model", THINKING)
        case "mse":
            given["settings"] |= {"stage1": {"epochs": 1, "loss": "mse", "cues": "text"}}
        case "checkpointing":
            given["settings"] |= {"checkpointing": True, "accumulation": 3}
        case "half":
            given["settings"] |= {"dtype": "auto"}
    run = make_run(tmp_path / "run", model, **given)
    assert [train(forks, stage, run) for stage in STAGES] == [0, 0], (run / "stderr.txt").read_text()
    assert all((run / stage / "metrics.json").exists() for stage in STAGES)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda run: (run / "memories.jsonl").write_text(""), "nothing to train on"),
        (lambda run: (run / "run.json").unlink(), "run.json of this run cannot be read"),
        (lambda run: _set(run, model="/nowhere"), "The model in nowhere cannot be loaded"),
        (lambda run: _set(run, settings={"stage1": {"targets": ["x_proj"]}}), "no linear layer x_proj"),
        (lambda run: _set(run, settings={"stage1": {"batch": 0}}), "train.stage1.batch must be 1 or more"),
    ],
)
def test_what_a_person_can_mend_is_one_line(
    tmp_path: Path, model: Path, forks: ForkServerContext, break_it: Callable[[Path], None], said: str
) -> None:
    run = make_run(tmp_path / "run", model)
    break_it(run)
    assert train(forks, "stage1", run) == 2
    (line,) = (run / "stderr.txt").read_text().splitlines()[-1:]
    assert said in line
    told = json.loads((run / "progress.jsonl").read_text().splitlines()[-1])
    assert (told["stage"], told["error"]) == ("stage1", line)
    assert not (run / "stage1" / "metrics.json").exists()


def _set(run: Path, **changes: Any) -> None:
    path = run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate(step, 100, 0.05) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert 0.1 <= rates[-1] < 0.12
    assert rate(0, 1, 0.05) == 1.0
