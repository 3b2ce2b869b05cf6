"""Releases are there whole or not at all, whenever the program is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from qqmem.errors import NotFound, ReleaseError
from qqmem.train.releases import Manifest, Releases, starter_of

MANIFEST = Manifest(
    release="",
    base={"name": "tiny", "sha256": "ab"},
    spaces={"value": "hidden/tiny/1"},
    trigger="both",
    lanes={"state": 1.0, "text": 0.5},
    decodable=(3, 5),
    memories=4,
    metrics={"exact": 0.5},
    created_at="2026-11-22T02:00:00+00:00",
    seed=7,
)


def parts(folder: Path, text: str = "weights") -> Path:
    """What a trainer has made."""
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    for name in ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "recall.safetensors"):
        (folder / name).write_text(text)
    return folder


def published(folder: Path, times: int = 1) -> Releases:
    releases = Releases(folder / "releases")
    for n in range(times):
        name = releases.publish(parts(folder / "parts", f"weights {n + 1}"), MANIFEST, {"page": n})
        releases.point(name)
    return releases


def test_a_release_is_read_as_it_was_published(tmp_path: Path) -> None:
    releases = published(tmp_path, 2)
    assert (releases.names(), releases.current()) == (["0001", "0002"], "0002")
    found = releases.read("0002")
    assert (found.release, found.decodable, found.lanes, found.base) == ("0002", (3, 5), MANIFEST.lanes, MANIFEST.base)
    assert (releases.path("0002") / "adapter/adapter_model.safetensors").read_text() == "weights 2"
    assert json.loads((releases.path("0001") / "report.json").read_text()) == {"page": 0}
    assert (releases.folder / "current").read_text() == "0002\n"


def test_a_report_to_be_read_is_published_if_there_is_one(tmp_path: Path) -> None:
    releases, page = Releases(tmp_path / "releases"), tmp_path / "report.html"
    releases.publish(parts(tmp_path / "parts"), MANIFEST, {}, page=page)
    page.write_text("<p>all is well</p>")
    releases.publish(parts(tmp_path / "parts"), MANIFEST, {}, page=page)
    assert not (releases.path("0001") / "report.html").exists()
    assert (releases.path("0002") / "report.html").read_text() == "<p>all is well</p>"


def test_publishing_leaves_what_is_in_force(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "releases")
    assert (releases.names(), releases.current()) == ([], None)
    releases.publish(parts(tmp_path / "parts"), MANIFEST, {})
    assert (releases.names(), releases.current()) == (["0001"], None)


def test_going_back(tmp_path: Path) -> None:
    releases = published(tmp_path, 2)
    assert releases.before() == "0001"
    releases.point("0001")
    assert (releases.current(), releases.before()) == ("0001", None)
    releases.point(None)
    assert (releases.current(), (releases.folder / "current").read_text()) == (None, "base\n")
    with pytest.raises(ReleaseError, match="untrained"):
        releases.before()
    with pytest.raises(NotFound):
        releases.point("0009")


def starter(folder: Path, model: str = "tiny", **changes: Any) -> Path:
    """A starter of a model, in the folder of all starters."""
    parts(folder / model)
    manifest = asdict(replace(MANIFEST, release="starter", decodable=(), base={"name": model}))
    (folder / model / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder / model


def test_where_nothing_is_said_the_starter_is_in_force(tmp_path: Path) -> None:
    releases = published(tmp_path, 1)
    with pytest.raises(NotFound, match="no starter"):
        releases.point("starter")
    assert releases.current() == "0001"
    releases.starter = starter(tmp_path / "starters")
    assert releases.before() == "starter"
    releases.point("starter")
    assert (releases.current(), releases.before(), releases.names()) == ("starter", None, ["0001"])
    assert not (releases.folder / "current").exists()
    assert releases.path("starter") == releases.starter
    assert releases.read("starter").decodable == ()
    assert releases.prune(1) == []
    releases.point(None)
    assert releases.current() is None
    with pytest.raises(ReleaseError, match="untrained"):
        releases.before()
    releases.point("starter")
    releases.starter = None
    assert releases.current() is None


def test_the_untrained_model_can_be_put_in_force_before_there_is_any_release(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "releases")
    releases.starter = starter(tmp_path / "starters")
    assert releases.current() == "starter"
    releases.point(None)
    assert releases.current() is None


@pytest.mark.parametrize("model", ["tiny", "of/somebody"])
def test_a_starter_is_found_by_the_name_of_its_model(tmp_path: Path, model: str) -> None:
    folder = starter(tmp_path, model)
    assert starter_of(model, "hidden/tiny/1", tmp_path) == folder
    assert starter_of("another", "hidden/tiny/1", tmp_path) is None


@pytest.mark.parametrize(
    "changes", [{"release": "0001"}, {"base": {"name": "big"}}, {"spaces": {"value": "hidden/tiny/2"}}, {"format": 2}]
)
def test_a_starter_that_does_not_fit_is_none_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    starter(tmp_path, **changes)
    assert starter_of("tiny", "hidden/tiny/1", tmp_path) is None
    assert len(caplog.records) == 1


def test_a_folder_of_a_model_is_no_starter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = starter(tmp_path / "models")
    assert starter_of(str(folder), "hidden/tiny/1", tmp_path / "starters") is None
    assert not caplog.records
    (folder / "recall.safetensors").unlink()
    assert starter_of("tiny", "hidden/tiny/1", tmp_path / "models") is None
    assert "recall.safetensors is missing" in caplog.text


@pytest.mark.parametrize(("current", "left"), [("0004", ["0003", "0004"]), ("0001", ["0001", "0003", "0004"])])
def test_pruning_spares_the_newest_and_the_one_in_force(tmp_path: Path, current: str, left: list[str]) -> None:
    releases = published(tmp_path, 4)
    releases.point(current)
    assert set(releases.prune(2)) == {"0001", "0002", "0003", "0004"} - set(left)
    assert (releases.names(), releases.current()) == (left, current)
    assert not list(releases.folder.glob(".*"))


def test_no_name_is_given_twice(tmp_path: Path) -> None:
    releases = published(tmp_path, 3)
    releases.point("0001")
    releases.prune(1)
    assert releases.publish(parts(tmp_path / "parts"), MANIFEST, {}) == "0004"
    assert releases.publish(parts(tmp_path / "parts"), MANIFEST, {}, newer_than="0041") == "0042"
    (releases.folder / "0042").rename(releases.folder / "10000")
    assert releases.publish(parts(tmp_path / "parts"), MANIFEST, {}) == "10001"
    assert releases.names()[-1] == "10001"


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"release": "0002"},
        {"format": 2},
        {"trigger": "never"},
        {"base": "tiny"},
        {"decodable": ["a"]},
        {"lanes": {"state": None}},
        {"memories": []},
        {"metrics": 3},
    ],
)
def test_a_foreign_manifest_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    releases = published(tmp_path)
    rewrite(releases.path("0001") / "manifest.json", **changes)
    with pytest.raises(ReleaseError, match="0001"):
        releases.read("0001")
    with pytest.raises(ReleaseError):
        releases.point("0001")


def test_a_manifest_torn_anywhere_is_refused(tmp_path: Path) -> None:
    releases = published(tmp_path)
    file = releases.path("0001") / "manifest.json"
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(ReleaseError, match="torn"):
            releases.read("0001")
    file.write_bytes(b"\xff\xfe" + whole)
    with pytest.raises(ReleaseError, match="torn"):
        releases.read("0001")
    file.write_text("[]")
    with pytest.raises(ReleaseError, match="another program"):
        releases.read("0001")


@pytest.mark.parametrize("file", ["recall.safetensors", "adapter/adapter_model.safetensors", "manifest.json"])
def test_a_release_without_one_of_its_files_is_refused(tmp_path: Path, file: str) -> None:
    releases = published(tmp_path)
    (releases.path("0001") / file).unlink()
    with pytest.raises(ReleaseError, match=file):
        releases.read("0001")


@pytest.mark.parametrize("content", ["0009\n", "", "../0001", "0001 0002"])
def test_a_foreign_current_is_a_sentence_and_can_be_put_right(tmp_path: Path, content: str) -> None:
    releases = published(tmp_path)
    (releases.folder / "current").write_text(content)
    with pytest.raises(ReleaseError, match="rollback"):
        releases.current()
    with pytest.raises(ReleaseError):
        releases.prune(1)
    releases.point("0001")
    assert releases.current() == "0001"


def test_a_release_of_another_model_or_space_is_refused() -> None:
    MANIFEST.check("tiny", "hidden/tiny/1")
    with pytest.raises(ReleaseError, match="model tiny, not for big"):
        MANIFEST.check("big", "hidden/tiny/1")
    with pytest.raises(ReleaseError, match="another space"):
        MANIFEST.check("tiny", "hidden/tiny/2")


KILLED = """
import io, os, signal, sys
from pathlib import Path
sys.path.insert(0, {repo!r})
from tests.test_releases import MANIFEST, parts
from qqmem.train.releases import Releases
import json, shutil
OPS = {{"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile", "os.scandir", "os.listdir"}}

def work(folder):
    releases = Releases(folder / "releases")
    name = releases.publish(folder / "parts", MANIFEST, {{"page": 3}})
    releases.point(name)
    releases.prune(2)

def child(folder, end):
    count = 0
    def step(*_):
        nonlocal count
        count += 1
        if count == end:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(lambda event, _: step() if event in OPS else None)
    sync = os.fsync
    os.fsync = lambda handle: (step(), sync(handle), step())
    opened = io.open
    io.open = lambda *a, **k: (opened(*a, **k), step())[0]  # it is there, and empty
    work(folder)
    os._exit(0)

base = Path(sys.argv[1])
end, killed = 1, True
while killed:
    folder = base / str(end)
    shutil.copytree(base / "before", folder)
    if (pid := os.fork()) == 0:
        child(folder, end)
    killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    end += 1
print(end - 1)
"""


def test_a_kill_between_any_two_file_operations_leaves_a_whole_release_in_force(tmp_path: Path) -> None:
    published(tmp_path / "before", 2)
    parts(tmp_path / "before" / "parts", "weights 3")
    program = KILLED.format(repo=str(Path(__file__).parents[1]))
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    times = int(done.stdout)
    assert times > 40
    seen = set()
    for end in range(1, times + 1):
        releases = Releases(tmp_path / str(end) / "releases")
        current = releases.current()
        assert current is not None
        seen.add(current)
        for name in releases.names():
            manifest = releases.read(name)
            assert manifest.release == name
            weights = (releases.path(name) / "adapter/adapter_model.safetensors").read_text()
            assert weights == f"weights {int(name)}"
        # And the next one is published as if nothing had been.
        assert releases.publish(tmp_path / str(end) / "parts", MANIFEST, {}) in ("0003", "0004")
        assert not list(releases.folder.glob(".*"))
    assert seen == {"0002", "0003"}
    assert releases.names() == ["0002", "0003", "0004"]
