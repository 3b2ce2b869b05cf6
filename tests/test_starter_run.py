from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qqmem.engine.adapter import read_release
from qqmem.run_parts import Report
from qqmem.starter_run import publish
from qqmem.train.releases import starter_of
from qqmem.train.trainee import Trainee
from tests.train.test_trainee import a_trainee

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

CONTENT: dict[str, Any] = {"model_name": "tiny", "space": "hidden/tiny/1", "seed": 3}
REPORT = Report(True, "", {"trigger_recall": 0.9}, (), "model", {"state": 1.0}, {"after": {}})


def saved(folder: Path) -> Trainee:
    trainee = a_trainee()
    with torch.no_grad():
        trainee.rows.add_(1e-6)  # less than bfloat16 shows
    trainee.save(folder)
    return trainee


def test_a_starter_is_half_as_large_and_fits_the_model_and_space_it_was_made_for(tmp_path: Path) -> None:
    trainee = saved(tmp_path / "run" / "stage2")
    (tmp_path / "model").mkdir()
    publish(tmp_path / "run", tmp_path / "starter" / "tiny", CONTENT, tmp_path / "model", REPORT)
    assert starter_of("tiny", "hidden/tiny/1", tmp_path / "starter") == tmp_path / "starter" / "tiny"
    assert starter_of("tiny", "hidden/tiny/2", tmp_path / "starter") is None
    release = read_release(tmp_path / "starter" / "tiny", torch.zeros(1))
    torch.testing.assert_close(release.rows, trainee.rows.detach(), rtol=0, atol=0)
    weights = load_file(tmp_path / "starter" / "tiny" / "adapter" / "adapter_model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.bfloat16}
    manifest = json.loads((tmp_path / "starter" / "tiny" / "manifest.json").read_text("utf-8"))
    assert (manifest["decodable"], manifest["trigger"], manifest["seed"]) == ([], "both", 3)


def test_a_starter_takes_the_place_of_the_one_before_whole(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "stage2")
    (tmp_path / "model").mkdir()
    target = tmp_path / "starter" / "tiny"
    target.mkdir(parents=True)
    (target / "left").touch()
    publish(tmp_path / "run", target, CONTENT, tmp_path / "model", REPORT)
    assert sorted(path.name for path in target.parent.iterdir()) == ["tiny"]
    assert not (target / "left").exists()
