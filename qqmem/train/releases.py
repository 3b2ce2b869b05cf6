"""Releases: what was trained and has passed its gate, as folders that are there whole or not at all.

    releases/0001/{adapter/, recall.safetensors, manifest.json, report.json, report.html}
    releases/current     "0001"; "base": the untrained model; not there: the starter, or the untrained model without one

The starter is a release that comes with the package: it knows when to recall, and nothing of anybody.

A release is written aside, synced, and renamed; `current` is replaced by a rename. Whatever begins with a dot was left
by a crash, means nothing, and is removed by the next publication. Pure files: blocking, to be called on a thread.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from qqmem.errors import NotFound, ReleaseError

log = logging.getLogger(__name__)

Trigger = Literal["model", "both", "score"]

FORMAT = 1

STARTER, BASE = "starter", "base"
"""Names in place of a release's: the one that comes with the package, and the untrained model."""

_NAME = re.compile(r"\d{4,}")
_FILES = ("manifest.json", "recall.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")
_PARTS = ("adapter", "recall.safetensors")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a release is of, and what it can.

    base: name and sha256 of the model that it was trained on. spaces: ids of vector spaces by name (`value`).
    trigger: who is to decide that a memory is needed. margin: of the model's decision, in nats.
    lanes: their weights in a search. decodable: ids of memories that it writes exactly.
    memories: how many it was trained on. created_at: ISO 8601.
    """

    release: str
    base: Mapping[str, str]
    spaces: Mapping[str, str]
    trigger: Trigger
    lanes: Mapping[str, float]
    decodable: tuple[int, ...]
    memories: int
    metrics: Mapping[str, Any]
    created_at: str
    seed: int
    margin: float = 0.0
    format: int = FORMAT

    def check(self, base: str, space: str) -> None:
        """Raise ReleaseError if it belongs to another model, or to another space of values."""
        if self.base.get("name") != base:
            raise ReleaseError(
                f"Release {self.release} was trained for the model {self.base.get('name')}, not for {base}; serve that "
                "model, or train anew."
            )
        if self.spaces.get("value") != space:
            raise ReleaseError(
                f"Release {self.release} reads vectors of another space, because the model or the prompt `summary` has "
                "changed; train anew."
            )


class Releases:
    """The releases in one folder, which need not be there. starter: where that lies, once a fitting one is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starter: Path | None = None

    def names(self) -> list[str]:
        """All of them but the starter, the oldest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((each.name for each in found if _NAME.fullmatch(each.name) and each.is_dir()), key=int)

    def current(self) -> str | None:
        """The one in force; None is the untrained model. Raises ReleaseError."""
        try:
            name = (self.folder / "current").read_text("utf-8").strip()
        except FileNotFoundError:
            return STARTER if self.starter else None
        except (OSError, UnicodeDecodeError) as error:
            raise ReleaseError(
                "The file releases/current cannot be read; point it anew: qqmem train rollback"
            ) from error
        if name == BASE:
            return None
        if name not in self.names():
            raise ReleaseError("The file releases/current names no release; point it anew: qqmem train rollback")
        return name

    def path(self, name: str) -> Path:
        """The folder of a release. Raises NotFound."""
        if name == STARTER and self.starter:
            return self.starter
        if name == STARTER:
            raise NotFound("There is no starter release for this model.")
        if name not in self.names():
            raise NotFound(f"There is no release {name[:20]}.")
        return self.folder / name

    def read(self, name: str) -> Manifest:
        """The manifest of a release whose files are all there. Raises NotFound, ReleaseError."""
        return _read(self.path(name), name)

    def before(self) -> str | None:
        """The one before that in force, None is the untrained model. Raises ReleaseError: the latter is in force.

        Before the first one comes the starter.
        """
        current = self.current()
        if current is None:
            raise ReleaseError("The untrained model is in force; there is nothing before it.")
        if current == STARTER:
            return None
        older = (name for name in reversed(self.names()) if int(name) < int(current))
        return next(older, STARTER if self.starter else None)

    def publish(
        self,
        parts: Path,
        manifest: Manifest,
        report: Mapping[str, Any],
        *,
        page: Path | None = None,
        newer_than: str = "",
    ) -> str:
        """Make a release of parts/adapter/ and parts/recall.safetensors. Returns its name; `current` stays.

        manifest: its name is given here, higher than all that were and than `newer_than`. page: the report as a file
        to be read, if it is there. Raises OSError.
        """
        self._sweep()
        used = [*self.names(), newer_than]
        name = f"{max(int(each) if _NAME.fullmatch(each) else 0 for each in used) + 1:04}"
        aside = self.folder / f".{name}"
        aside.mkdir(parents=True)
        for part in _PARTS:
            _copy(parts / part, aside / part)
        _write(aside / "manifest.json", asdict(replace(manifest, release=name)))
        _write(aside / "report.json", report)
        if page is not None and page.is_file():
            _copy(page, aside / page.name)
        sync(aside)
        aside.rename(self.folder / name)
        _sync(self.folder)
        return name

    def point(self, name: str | None) -> None:
        """Put a release in force, or the untrained model. Raises NotFound, ReleaseError, OSError."""
        if name is not None:
            self.read(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        current = self.folder / "current"
        if name == STARTER:
            current.unlink(missing_ok=True)
        else:
            aside = self.folder / ".current"
            aside.write_text(f"{name or BASE}\n", "utf-8")
            _sync(aside)
            aside.replace(current)
        _sync(self.folder)

    def prune(self, keep: int) -> list[str]:
        """Delete all but the newest `keep` and the one in force. Returns those. Raises ReleaseError, OSError."""
        assert keep > 0, "the newest stays, so that no name is given twice"
        current = self.current()
        gone = [name for name in self.names()[:-keep] if name != current]
        for name in gone:
            # Under a name that means nothing, so that no half of it is ever seen.
            aside = self.folder / f".{name}"
            (self.folder / name).rename(aside)
            shutil.rmtree(aside)
        return gone

    def _sweep(self) -> None:
        """Remove what a crash has left."""
        for left in self.folder.glob(".*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


def shipped_for(model: str, shipped: Path | None = None) -> Path | None:
    """The folder of the starter for this model, whether it fits or not. shipped: as of `starter_of`."""
    shipped = shipped or Path(str(resources.files("qqmem") / "starter"))
    folder = shipped / model
    # `model` may be the path of a folder
    return folder if folder.is_relative_to(shipped) and folder.is_dir() else None


def starter_of(model: str, space: str, shipped: Path | None = None) -> Path | None:
    """The starter for this model and this space of values, if there is one that fits. Blocks.

    shipped: the folder of all starters, in the package if not given.
    """
    folder = shipped_for(model, shipped)
    if folder is None:
        return None
    try:
        _read(folder, STARTER).check(model, space)
    except ReleaseError as error:
        log.warning("there is a starter, and it does not serve: %s", error)
        return None
    return folder


def _read(folder: Path, name: str) -> Manifest:
    """The manifest of a release whose files are all there. Raises ReleaseError."""
    for file in _FILES:
        if not (folder / file).is_file():
            raise ReleaseError(f"Release {name} is torn: {file} is missing; go back to another.")
    manifest = read_manifest(folder / "manifest.json")
    if manifest.release != name:
        raise ReleaseError(f"Release {name} calls itself {manifest.release[:20]}; go back to another.")
    return manifest


def read_manifest(file: Path) -> Manifest:
    """Raises ReleaseError: torn, or of a newer program."""
    name = file.parent.name
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"The manifest of release {name} is torn; go back to another: qqmem train rollback"
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ReleaseError(f"The manifest of release {name} is of another program or version; update this one.")
    try:
        return _manifest(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            f"The manifest of release {name} is damaged; go back to another: qqmem train rollback"
        ) from error


def _manifest(found: Mapping[str, Any]) -> Manifest:
    """Raises AttributeError, KeyError, TypeError, ValueError."""
    if found["trigger"] not in ("model", "both", "score"):
        raise ValueError(found["trigger"])
    return Manifest(
        release=str(found["release"]),
        base={str(key): str(value) for key, value in found["base"].items()},
        spaces={str(key): str(value) for key, value in found["spaces"].items()},
        trigger=cast(Trigger, found["trigger"]),
        lanes={str(key): float(value) for key, value in found["lanes"].items()},
        decodable=tuple(int(id) for id in found["decodable"]),
        memories=int(found["memories"]),
        metrics=dict(found["metrics"]),
        created_at=str(found["created_at"]),
        seed=int(found["seed"]),
        margin=float(found.get("margin", 0.0)),  # those of before did not know it
    )


# ---- files -----------------------------------------------------------------------------------------------------------


def sync(folder: Path) -> None:
    """Have everything in a folder survive a power cut. Raises OSError."""
    for root, _, files in os.walk(folder, topdown=False):
        for each in files:
            _sync(Path(root) / each)
        _sync(Path(root))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
