"""The folders of runs: what of them stays, and which can be gone on with. Blocking, to be called on a thread."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from qqmem.lessons import PRIVATE, read_origin

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


def is_done(folder: Path, stage: str) -> bool:
    """Whether a stage has come to its end: it writes its metrics last."""
    return (folder / stage / "metrics.json").exists()


def read_json(path: Path) -> dict[str, Any]:
    """An object; an empty one if there is none, or it is torn."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write aside, then put it in place. Raises OSError."""
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
    aside.replace(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
