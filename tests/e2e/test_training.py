"""A small training of the serving bot, by its commands: it answers meanwhile, takes the release, and gives it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e

TOLD = ("阿青每周三晚上去城东的泳池游泳", "阿青的妹妹在青岛开了一家叫浪花的咖啡馆", "阿青对芒果过敏")
SECRET = "浪花"


@pytest.fixture
def learner(service: Service) -> Service:
    """As little training as there can be, and a gate that lets it pass."""
    service.environment |= {
        "QQMEM_TRAIN__QUESTIONS": "2",
        "QQMEM_TRAIN__STAGE1__EPOCHS": "1",
        "QQMEM_TRAIN__STAGE2__EPOCHS": "1",
        "QQMEM_TRAIN__GATE": json.dumps({"recall_at_1": 0, "exact": 0, "perplexity_rise": 9}),
        "QQMEM_GENERATION__MAX_NEW_TOKENS": "32",
    }
    return service


def train(service: Service, *arguments: str) -> Any:
    """What `qqmem train … --json` prints."""
    command = [sys.executable, "-m", "qqmem", "train", *arguments, "--json", "--url", service.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    return json.loads(done.stdout)


def remember(service: Service, text: str) -> int:
    added = httpx.post(f"{service.url}/api/memories", json={"scope": "user:1", "subject_id": "1", "text": text})
    added.raise_for_status()
    return int(added.json()["id"])


def files_with(folder: Path, text: str) -> list[Path]:
    """Files that hold a text, plain or as JSON spells it."""
    spelled = [text.encode(), json.dumps(text)[1:-1].encode()]
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if any(each in path.read_bytes() for each in spelled)]


@pytest.mark.timeout(1500)  # two trainings, of some minutes each
def test_the_bot_trains_itself_while_it_answers_and_forgets_what_it_is_told_to(learner: Service) -> None:
    service = learner
    service.start()
    ids = [remember(service, text) for text in TOLD]
    begun = train(service, "run")
    again = httpx.post(f"{service.url}/api/training/trigger")
    assert again.status_code == 409
    assert "going on" in again.json()["error"]["message"]
    during = []
    while train(service, "status")["is_running"]:
        during.append(service.say("你好呀", user="2")["status"])
    assert during
    assert set(during) == {"success"}
    (first,) = httpx.get(f"{service.url}/api/training/runs").json()["runs"]
    assert (first["id"], first["state"], first["error"]) == (begun["id"], "done", "")
    assert train(service, "status")["release"] == "0001"
    assert service.say("你好呀", user="2")["status"] == "success"

    httpx.delete(f"{service.url}/api/memories/{ids[1]}").raise_for_status()
    second = train(service, "run", "--wait")
    assert (second["state"], second["release"]) == ("done", "0002")
    assert files_with(service.data / "train", SECRET) == []
    assert files_with(service.data / "releases", SECRET) == []
    answer = service.say("我妹妹开的咖啡馆叫什么？")
    assert answer["status"] == "success", answer
    turns = httpx.get(f"{service.url}/api/conversations/private:1/messages").json()["turns"]
    recalls = [recall for turn in turns if turn["id"] == answer["turn_id"] for recall in turn["recalls"]]
    assert answer["turn_id"] in {turn["id"] for turn in turns}
    assert all(recall.get("chosen") != ids[1] for recall in recalls)
    assert SECRET not in answer["reply"]

    assert train(service, "rollback")["release"] == "0001"
    assert "release" not in train(service, "rollback", "base")
