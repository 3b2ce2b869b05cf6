"""A trainer that trains nothing: `python fake_trainer.py STAGE RUN`, doing what RUN/plan.json says for that stage.

The plan of a stage is a list of steps: ["progress", n], ["torn"], ["line", text], ["say", text], ["fork"], ["session"],
["deaf"], ["error", sentence], ["hang"], ["exit", code], ["die"]. At the end of the plan, and without one, it succeeds.
Only the standard library, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LONG = 600


def main(stage: str, folder: Path) -> None:  # noqa: C901  a list of what it can do
    plan = folder.parent / "plan.json"
    steps = json.loads(plan.read_text()).get(stage, []) if plan.exists() else []
    with (folder / "progress.jsonl").open("a") as progress:
        for what, *more in steps:
            match what:
                case "progress":
                    line = {"stage": stage, "step": more[0], "steps": 4, "loss": {"total": 0.5}, "left_s": 3.0}
                    progress.write(json.dumps(line) + "\n")
                case "line":
                    progress.write(f"{more[0]}\n")
                case "torn":
                    progress.write('{"stage": "st')
                    progress.flush()
                    time.sleep(0.1)
                    progress.write('age1", "step": 7}\n')
                case "say":
                    sys.stdout.write(f"{more[0]}\n")
                    sys.stdout.flush()
                case "fork":
                    child(folder, start_new_session=False)
                case "session":
                    child(folder, start_new_session=True)
                case "deaf":
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                case "error":
                    progress.write(json.dumps({"stage": stage, "error": more[0]}) + "\n")
                case "hang":
                    progress.flush()
                    (folder / "hangs").touch()
                    time.sleep(LONG)
                case "exit":
                    sys.exit(more[0])
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
            progress.flush()
        succeed(stage, folder / stage)
        progress.write(json.dumps({"stage": stage, "done": True}) + "\n")


def child(folder: Path, *, start_new_session: bool) -> None:
    """A worker that ignores SIGTERM and would outlive its parent."""
    code = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({LONG})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=start_new_session)
    with (folder / "children").open("a") as file:
        file.write(f"{process.pid}\n")


def succeed(stage: str, folder: Path) -> None:
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint-4").mkdir(exist_ok=True)
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").write_text(f"weights of {stage}")
    (folder / "recall.safetensors").write_text("rows")
    (folder / "metrics.json").write_text(json.dumps({"loss": 0.25}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
