"""The folders of runs: what of them stays, and which can be gone on with. Blocking, to be called on a thread."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from qqmem.errors import NotFound
from qqmem.lessons import PRIVATE, read_origin
from qqmem.run_parts import Report
from qqmem.runs import Run
from qqmem.train.releases import Releases
from qqmem.train.report import page

log = logging.getLogger(__name__)

_MOST = 10
_RESULT = ("adapter", "recall.safetensors", "metrics.json")
STAGES: tuple[Literal["stage1", "stage2"], ...] = ("stage1", "stage2")


def clean(folder: Path, *, keep_result: bool = False) -> None:
    """Delete all that holds or has learned a text; logs and reports stay. keep_result: also what stage2 has made."""
    for name in PRIVATE:
        (folder / name).unlink(missing_ok=True)
    for stage in STAGES:
        kept = _RESULT if keep_result and stage == "stage2" else ("metrics.json",)
        for each in (folder / stage).glob("*"):
            if each.name not in kept:
                _delete(each)
    shutil.rmtree(folder / "compared", ignore_errors=True)


def ids(folder: Path) -> list[int]:
    """The runs that have a folder there, the oldest first."""
    return sorted(int(each.name) for each in folder.glob("*") if each.name.isdecimal())


def make_room(folder: Path) -> None:
    """Make the folder of all runs, and delete those of long ago. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for id in ids(folder)[:-_MOST]:
        shutil.rmtree(folder / str(id))


def is_same(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether an export is whole and was made for the same run.json, but for its id."""
    found = read_json(folder / "run.json")
    return bool(read_origin(folder)) and {**found, "id": 0} == {**json.loads(json.dumps(wanted)), "id": 0}


def adopt(old: Path, new: Path, run: Mapping[str, Any]) -> None:
    """Go on with the files of another run."""
    old.rename(new)
    write_json(new / "run.json", run)


def compared(folder: Path) -> Path:
    """A run in a run, over the same files, whose query is trained by the recipe that ours is measured against.

    It copies each memory's vector from its own text, from the untrained model on.
    """
    plain = folder / "compared" / "mse"
    plain.mkdir(parents=True, exist_ok=True)
    run = read_json(folder / "run.json")
    settings = run["settings"]
    recipe = {**settings, "stage1": {**settings["stage1"], "loss": "mse", "cues": "text", "chat": 0, "epochs": 9}}
    for name in PRIVATE:
        if (folder / name).exists() and not (plain / name).exists():
            (plain / name).symlink_to((folder / name).absolute())
    write_json(plain / "run.json", {**run, "settings": recipe, "starter": ""})
    return plain


def is_done(folder: Path, stage: str) -> bool:
    """Whether a stage has come to its end: it writes its metrics last."""
    return (folder / stage / "metrics.json").exists()


def write_report(folder: Path, report: Report) -> dict[str, Any]:
    """Write report.json and report.html of a run. Returns what is in report.json. Raises OSError."""
    run = read_json(folder / "run.json")
    content = {
        "run": run.get("id"),
        "model": run.get("model_name", ""),
        "language": run.get("language", "zh"),
        "passed": report.passed,
        "reason": report.reason,
        "trigger": report.trigger,
        "margin": report.margin,
        "lanes": dict(report.lanes),
        **report.details,
        "stages": {stage: read_json(folder / stage / "metrics.json") for stage in STAGES},
    }
    write_json(folder / "report.json", content)
    try:
        _put(folder / "report.html", page(content, progress(folder)))
    except Exception:  # hours of training are not lost for a page that cannot be drawn
        log.exception("the report of %s has no page", folder.name)
    return content


def read_report(folder: Path, releases: Releases, run: Run, name: Literal["report.json", "report.html"]) -> str:
    """The text of a run's report: from its folder, or from the release that it has published. Raises NotFound.

    folder: of the training, with runs/ in it.
    """
    places = [folder / "runs" / str(run.id)]
    if run.release:
        places.append(releases.folder / run.release)
    for place in places:
        with suppress(FileNotFoundError):
            return (place / name).read_text("utf-8")
    raise NotFound(f"Training run {run.id} has no report: it was not measured, or is of long ago.")


def progress(folder: Path) -> Iterator[dict[str, Any]]:
    """What the trainers have told, but for torn lines."""
    path = folder / "progress.jsonl"
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict):
                yield told


def read_json(path: Path) -> dict[str, Any]:
    """An object; an empty one if there is none, or it is torn."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write aside, then put it in place. Raises OSError."""
    _put(path, json.dumps(content, ensure_ascii=False, indent=1))


def _put(path: Path, text: str) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(text, "utf-8")
    aside.replace(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
