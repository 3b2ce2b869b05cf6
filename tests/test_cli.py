"""The commands as a person runs them: what they print, and the code they leave with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qqmem import __version__


def qqmem(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without colours, in an empty folder of models."""
    surroundings = {**os.environ, "QQMEM_MODELS": "models", "NO_COLOR": "1", "TERM": "dumb", **environment}
    command = [sys.executable, "-m", "qqmem", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=50, check=False)


def test_version_and_help() -> None:
    assert qqmem("--version").stdout.strip() == __version__
    assert "serve" in qqmem("--help").stdout


@pytest.mark.parametrize("language", ["zh", "en"])
def test_init_writes_a_settings_file_once(language: str) -> None:
    assert qqmem("init", "--language", language).returncode == 0
    written = Path("qqmem.yaml").read_text("utf-8")
    assert set(yaml.safe_load(written)) == {"server", "engine", "generation", "chat", "memory", "recall", "train"}
    again = qqmem("init")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "stays as it is" in again.stderr
    assert Path("qqmem.yaml").read_text("utf-8") == written


def test_doctor_says_what_is_missing_and_what_to_do() -> None:
    answer = qqmem("doctor", "--port", "1", QQMEM_SERVER__HOST="192.0.2.1")
    assert answer.returncode == 1
    assert "✗ model: qwen2.5-coder-0.5b is not on this machine; fetch it with: qqmem model pull" in answer.stdout
    assert "✗ access: Without a token" in answer.stdout
    assert "· port: 192.0.2.1:1 cannot be listened on" in answer.stdout
    assert "✓ database: none yet" in answer.stdout
    assert not Path("data").exists(), "a look changes nothing"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("serve", "--config", "nowhere.yaml"), 2, "There is no settings file nowhere.yaml"),
        (("serve", "--model", "no-such"), 1, "There is no model no-such"),
        (("chat", "--url", "ws://127.0.0.1:9/ws/chat"), 1, "start one with: qqmem serve"),
        (("chat", "--url", "nonsense"), 1, "is not a WebSocket address"),
        (("model", "pull", "no-such"), 1, "There is no model no-such"),
    ],
)
def test_what_a_person_got_wrong_is_one_sentence(arguments: tuple[str, ...], code: int, sentence: str) -> None:
    answer = qqmem(*arguments)
    assert (answer.returncode, answer.stderr.count("\n")) == (code, 1)
    assert sentence in answer.stderr


def test_model_list_names_what_there_is() -> None:
    assert "qwen2.5-coder-0.5b" in qqmem("model", "list").stdout


def test_openapi_is_the_one_in_the_docs() -> None:
    described = json.loads(qqmem("openapi").stdout)
    assert described == json.loads((Path(__file__).parent.parent / "docs/openapi.json").read_text("utf-8"))
