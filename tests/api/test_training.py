"""The routes to training, over a real socket."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from qqmem.api import training as routes
from qqmem.memory.words import Segmenter
from tests.api.training import Teaching, teaching
from tests.learning import Characters
from tests.memory.records import said
from tests.test_releases import starter

FACTS = ("小明喜欢黑咖啡，不加糖", "小明养了一只叫年糕的猫")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Characters()


@pytest.fixture
async def service(tmp_path: Path, segmenter: Segmenter) -> AsyncIterator[Teaching]:
    async with teaching(tmp_path, segmenter) as service:
        yield service


async def test_a_run_by_hand(service: Teaching) -> None:
    empty = await service.post("trigger")
    assert (empty.status_code, "Nothing is remembered" in empty.text) == (409, True)
    await service.bot.remember(*FACTS)
    begun = (await service.post("trigger")).json()
    assert (begun["success"], begun["status"], begun["run"]["state"]) == (True, "started", "running")
    await service.bot.learn.wait()
    run = await service.get("runs/1")
    assert (run["state"], run["release"], run["stage"]) == ("done", "0001", "mark")
    assert run["metrics"]["gate"] == {"exact": 0.75}
    assert {"mark", "pid", "born"} & run.keys() == set()
    found = await service.get("status")
    assert (found["is_running"], found["is_training"], found["enabled"]) == (False, False, False)
    assert (found["release"], found["run"], found["progress"]) == ("0001", run, {})
    assert (await service.http.get("/api/training/runs/7")).status_code == 404


async def test_while_a_run_is_going_on(service: Teaching) -> None:
    await service.bot.remember(*FACTS)
    service.bot.plan(stage1=[["progress", 3], ["hang"]])
    await service.post("trigger")
    while (await service.get("status"))["progress"].get("step") != 3:  # noqa: ASYNC110  it is another program that we ask
        await asyncio.sleep(0.02)
    found = await service.get("status")
    assert (found["is_running"], found["progress"]["stage"], found["run"]["stage"]) == (True, "stage1", "stage1")
    for route in ("trigger", "rollback"):
        answer = await service.post(route, {"release": "base"} if route == "rollback" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert (await service.get("debug"))["is_running"]
    assert (await service.post("cancel")).json() == {"cancelled": True}
    assert (await service.post("cancel")).json() == {"cancelled": False}
    assert (await service.get("runs/1"))["state"] == "cancelled"


async def test_runs_in_pages(service: Teaching) -> None:
    await service.bot.remember(*FACTS)
    for _ in range(3):
        await service.run()
    page = await service.get("runs", limit=2)
    assert ([run["id"] for run in page["runs"]], page["next"]) == ([3, 2], 2)
    rest = await service.get("runs", limit=2, before=2)
    assert ([run["id"] for run in rest["runs"]], "next" in rest) == ([1], False)


async def test_the_report_of_a_run(service: Teaching) -> None:
    await service.bot.remember(*FACTS)
    service.bot.played.details = {"after": {"exact": 0.75, "ranks": [1, 3]}, "ids": [1, 2], "decodable": [2]}
    await service.run()
    report = await service.get("runs/1/report")
    assert (report["passed"], report["trigger"], report["lanes"]) == (True, "model", {"state": 1.0})
    assert (report["after"], report["ids"], report["decodable"]) == ({"exact": 0.75, "ranks": [1, 3]}, [1, 2], [2])
    page = await service.http.get("/api/training/runs/1/report.html")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "通过" in page.text
    assert "75.0 %" in page.text
    # Of a run of long ago there is only the release.
    shutil.rmtree(service.bot.run_folder(1))
    assert await service.get("runs/1/report") == report
    assert (await service.http.get("/api/training/runs/1/report.html")).text == page.text


async def test_a_run_without_a_report(service: Teaching) -> None:
    await service.bot.remember(*FACTS)
    service.bot.plan(stage1=[["exit", 1]])
    await service.run()
    for id, sentence in ((1, "has no report: it was not measured"), (7, "There is no training run 7.")):
        for name in ("report", "report.html"):
            answer = await service.http.get(f"/api/training/runs/{id}/{name}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
            assert sentence in answer.json()["error"]["message"]


async def test_the_report_of_a_refused_run_stays(service: Teaching) -> None:
    await service.bot.remember(*FACTS)
    service.bot.played.passed = False
    run = await service.run()
    report = await service.get("runs/1/report")
    assert (report["passed"], report["reason"]) == (False, run["error"])
    assert run["error"] in (await service.http.get("/api/training/runs/1/report.html")).text


async def test_releases_and_going_back(service: Teaching) -> None:
    await service.bot.remember(*FACTS)
    nothing = await service.post("rollback")
    assert (nothing.status_code, "untrained" in nothing.text) == (409, True)
    for _ in range(3):
        await service.run()
    (service.bot.folder / "releases/0002/manifest.json").write_text("{")
    found = await service.get("releases")
    assert [(one["release"], one["is_current"]) for one in found["releases"]] == [
        ("0003", True),
        ("0002", False),
        ("0001", False),
    ]
    assert found["releases"][0]["decodable"] == 2
    assert "torn" in found["releases"][1]["fault"]
    torn = await service.post("rollback")
    assert (torn.status_code, torn.json()["error"]["code"]) == (409, "release")
    assert (await service.post("rollback", {"release": "0001"})).json() == {"release": "0001"}
    assert (await service.get("status"))["release"] == "0001"
    assert (await service.post("rollback")).json() == {}
    assert "release" not in await service.get("status")
    assert (await service.post("rollback", {"release": "base"})).json() == {}
    assert (await service.post("rollback", {"release": "0009"})).status_code == 404
    for wrong in ("../0001", "", "0001\n", 7):
        assert (await service.post("rollback", {"release": wrong})).status_code == 422


async def test_the_starter(service: Teaching) -> None:
    missing = await service.post("rollback", {"release": "starter"})
    assert (missing.status_code, "no starter" in missing.text) == (404, True)
    service.bot.learn.releases.starter = starter(service.bot.folder / "starters")
    assert (await service.get("status"))["release"] == "starter"
    await service.bot.remember(*FACTS)
    await service.run()
    found = await service.get("releases")
    assert [(one["release"], one["is_current"]) for one in found["releases"]] == [("0001", True), ("starter", False)]
    assert (await service.post("rollback")).json() == {"release": "starter"}
    assert (await service.get("releases"))["current"] == "starter"
    assert (await service.post("rollback")).json() == {}
    assert "release" not in await service.get("status")
    assert (await service.post("rollback", {"release": "starter"})).json() == {"release": "starter"}


async def test_the_schedule_is_shown(tmp_path: Path, segmenter: Segmenter) -> None:
    async with teaching(tmp_path, segmenter, enabled=True, hour=4, sft_path=Path("/secret/place.jsonl")) as service:
        found, debug = await service.get("status"), await service.get("debug")
        assert found["enabled"]
        assert debug["jobs"] == [
            {"id": "memory_training", "next_run_time": found["next_run"], "trigger": "every 3 days at 04:00"}
        ]
        assert debug["config"]["stage2"]["rank"] == 8
        assert "secret" not in str(debug)


async def test_saving_is_a_success_because_all_is_saved(service: Teaching) -> None:
    await said(service.bot.history, "你好")
    found = (await service.post("save-chat-history")).json()
    assert (found["success"], found["saved_count"]) == (True, 1)


async def test_who_may_do_what(tmp_path: Path, segmenter: Segmenter) -> None:
    async with teaching(tmp_path, segmenter, {"reader": "read", "chatter": "chat", "admin": "admin"}) as service:
        paths = _operations()
        assert len(paths) == 12
        for method, path in paths:
            answers = {}
            for name in ("reader", "chatter", "admin", "nobody"):
                headers = {"Authorization": f"Bearer {name}-secret"}
                answers[name] = (await service.http.request(method, path, headers=headers)).status_code
            assert (answers["chatter"], answers["nobody"]) == (403, 401), path
            assert (answers["reader"] == 403) == (method == "POST"), path
            assert answers["admin"] not in (401, 403), path


def _operations() -> list[tuple[str, str]]:
    found = _described()["paths"].items()
    return [(method.upper(), path.replace("{id}", "1")) for path, methods in found for method in methods]


def _described() -> dict[str, Any]:
    app = FastAPI()
    app.include_router(routes.router)
    return app.openapi()


def _schemas(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for operation in methods.values():
            assert operation["description"]
            content = operation["responses"]["200"]["content"]
            if "text/html" not in content:
                yield path, content["application/json"]["schema"]
            if "requestBody" in operation:
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                yield path, next(iter(body.get("anyOf", [body])))


def test_every_route_has_an_example() -> None:
    description = _described()
    for path, schema in _schemas(description):
        assert "examples" in description["components"]["schemas"][schema["$ref"].rpartition("/")[2]], path
