"""A release serves: engine, search and trigger take it together, or nothing changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from qqmem.engine.types import Opening
from qqmem.errors import ModelError, ReleaseError
from qqmem.recollection import Recollections
from qqmem.serving import Serving
from qqmem.settings import Recall
from qqmem.train.releases import Manifest, Releases
from tests.mind import Mind, open_mind
from tests.test_releases import MANIFEST, parts

MODEL = "fake"


@asynccontextmanager
async def serving(
    folder: Path, starter: Path | None = None
) -> AsyncIterator[tuple[Mind, Serving, Recollections, Releases]]:
    async with open_mind(folder / "data") as mind:
        recollections = Recollections(mind.memories, mind.history, Recall())
        found = Serving(
            mind.engine, mind.memories, recollections, MODEL, folder / "model", lambda model, space: starter
        )
        found.space = mind.memories.value_space
        found.has_space.set()
        found.has_values.set()
        yield mind, found, recollections, Releases(folder / "releases")


def release(mind: Mind, releases: Releases, folder: Path, **changes: object) -> Path:
    """Publish one that fits, but for the changes."""
    fitting = replace(MANIFEST, base={"name": MODEL, "sha256": ""}, spaces={"value": mind.memories.value_space or ""})
    return releases.path(releases.publish(parts(folder), replace(fitting, **changes), {}))  # type: ignore[arg-type]


async def test_a_release_is_taken_by_all_who_need_it_and_taken_off_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mind, served, recollections, releases):
        path = await asyncio.to_thread(release, mind, releases, tmp_path / "made", trigger="model", margin=0.5)
        assert (recollections.trigger, recollections.opening(7)) == ("both", None)
        await served.swap(path)
        assert (mind.model.release_used, recollections.trigger) == (path, "model")
        assert recollections.opening(7) == Opening(7, 0.5)
        assert isinstance(served.manifest, Manifest)
        await served.swap(None)
        assert [mind.model.release_used, recollections.trigger, served.manifest] == [None, "both", None]
        assert recollections.opening(7) is None


@pytest.mark.parametrize("changes", [{"base": {"name": "another"}}, {"spaces": {"value": "another"}}])
async def test_a_release_of_another_model_changes_nothing(tmp_path: Path, changes: dict[str, object]) -> None:
    async with serving(tmp_path) as (mind, served, recollections, releases):
        path = await asyncio.to_thread(release, mind, releases, tmp_path / "made", trigger="model", **changes)
        with pytest.raises(ReleaseError):
            await served.swap(path)
        assert (mind.model.release_used, recollections.trigger, served.manifest) == (None, "both", None)


async def test_the_release_in_force_serves_from_the_beginning_and_a_torn_one_does_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mind, served, _, releases):
        await served.begin(releases)
        assert mind.model.release_used is None
        path = await asyncio.to_thread(release, mind, releases, tmp_path / "made")
        await asyncio.to_thread(releases.point, path.name)
        await served.begin(releases)
        assert mind.model.release_used == path
        await served.swap(None)
        (path / "manifest.json").write_text("{")
        await served.begin(releases)
        assert mind.model.release_used is None


async def test_nobody_waits_for_the_vectors_of_memories_to_be_answered_by_a_release(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mind, served, _, releases):
        path = await asyncio.to_thread(release, mind, releases, tmp_path / "made")
        await asyncio.to_thread(releases.point, path.name)
        served.has_values.clear()
        await served.begin(releases)
        assert mind.model.release_used == path


async def test_the_starter_serves_where_no_other_is_in_force(tmp_path: Path) -> None:
    starter = tmp_path / "starter"
    (tmp_path / "model").mkdir()
    async with serving(tmp_path, starter) as (mind, served, recollections, releases):

        def prepare() -> None:
            release(mind, releases, tmp_path / "made", trigger="model").rename(starter)
            manifest = json.loads((starter / "manifest.json").read_text())
            (starter / "manifest.json").write_text(json.dumps({**manifest, "release": "starter", "decodable": []}))

        await asyncio.to_thread(prepare)
        await served.begin(releases)
        assert (mind.model.release_used, recollections.trigger) == (starter, "model")
        assert await asyncio.to_thread(releases.current) == "starter"
        await served.swap(None)
        await asyncio.to_thread(releases.point, None)
        await served.begin(releases)
        assert (mind.model.release_used, await asyncio.to_thread(releases.current)) == (None, None)
        path = await asyncio.to_thread(release, mind, releases, tmp_path / "made")
        await asyncio.to_thread(releases.point, path.name)
        await served.begin(releases)
        assert mind.model.release_used == path
        assert (await served.base()).starter == starter, "whatever is in force"


async def test_no_starter_is_looked_for_where_nothing_is_recalled(tmp_path: Path) -> None:
    """Or everybody who has recalls off would read at each start that it does not fit."""

    def find(model: str, space: str) -> Path | None:
        raise AssertionError("there is no space that it could fit")

    async with open_mind(tmp_path / "data", values=False) as mind:
        recollections = Recollections(mind.memories, mind.history, Recall())
        served = Serving(mind.engine, mind.memories, recollections, MODEL, tmp_path / "model", find)
        served.has_space.set()
        await served.begin(Releases(tmp_path / "releases"))
        assert mind.model.release_used is None


async def test_it_leaves_the_gpu_and_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mind, served, _, _):
        await served.pause()
        assert mind.model.device == "cpu"
        await served.resume()
        assert mind.model.device is None


async def test_what_is_trained_is_the_model_of_the_folder(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mind, served, _, _):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "a.safetensors").write_bytes(b"weights")
        base = await served.base()
        assert (base.name, base.space, base.starter) == (MODEL, mind.memories.value_space, None)
        (tmp_path / "model" / "a.safetensors").write_bytes(b"other weights")
        assert (await served.base()).sha256 != base.sha256
        nowhere = Serving(mind.engine, mind.memories, Recollections(mind.memories, mind.history, Recall()), MODEL, None)
        with pytest.raises(ModelError):
            await nowhere.base()


async def test_each_swap_is_told_and_a_failed_one_is_not(tmp_path: Path) -> None:
    told: list[str | None] = []
    async with serving(tmp_path) as (mind, _, recollections, releases):
        served = Serving(mind.engine, mind.memories, recollections, MODEL, None, tell=told.append)
        served.space = mind.memories.value_space
        path = await asyncio.to_thread(release, mind, releases, tmp_path / "made")
        await served.swap(path)
        await served.swap(None)
        with pytest.raises(ReleaseError):
            await served.swap(await asyncio.to_thread(release, mind, releases, tmp_path / "other", spaces={}))
    assert told == ["0001", None]
