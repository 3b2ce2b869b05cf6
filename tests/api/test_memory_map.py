from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.memories import Remembering, remembering
from tests.memory.encoders import Letters


async def get(service: Remembering, path: str, **params: Any) -> dict[str, Any]:
    answer = await service.http.get(f"/api/memories{path}", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_what_is_remembered_is_counted_the_largest_first(tmp_path: Path) -> None:
    async with remembering(tmp_path) as service:
        assert await get(service, "/counts") == {
            "states": {},
            "kinds": {},
            "decodable": 0,
            "scopes": [],
            "subjects": [],
        }
        await service.tell("大家都知道", "global")
        first, *_ = await service.remember("养了猫", "养了狗")
        await service.remember("在读书", scope="member:10001@7", kind="message")
        gone = await service.tell("没有了", "user:3")
        await service.http.delete(f"/api/memories/{gone['id']}")
        await service.memories.store.set_decodable([first.id], "0001")
        assert await get(service, "/counts") == {
            "states": {"searchable": 4},
            "kinds": {"fact": 3, "message": 1},
            "decodable": 1,
            "scopes": [
                {"scope": "user:10001", "count": 2},
                {"scope": "member:10001@7", "count": 1},
                {"scope": "global", "count": 1},
            ],
            "subjects": [
                {"subject_id": "10001", "name": "小明", "count": 3},
                {"subject_id": "", "name": "", "count": 1},
            ],
        }


async def test_the_map_has_the_newest_memories_near_those_that_are_alike(tmp_path: Path) -> None:
    async with remembering(tmp_path, encoder=Letters()) as service:
        await service.remember("我养了一只猫", "我养了一只狗", "今天下大雨", "今天下小雨")
        found = await get(service, "/map")
        assert (found["lane"], found["total"], len(found["points"])) == ("text", 4, 4)
        newest = found["points"][0]
        assert (newest["text"], newest["scope"], newest["subject_id"]) == ("今天下小雨", "user:10001", "10001")
        place = {point["text"]: (point["x"], point["y"]) for point in found["points"]}
        assert max(abs(value) for point in place.values() for value in point) == 1

        def apart(one: str, other: str) -> float:
            return abs(complex(*place[one]) - complex(*place[other]))

        assert apart("我养了一只猫", "我养了一只狗") < apart("我养了一只猫", "今天下大雨")
        assert apart("今天下大雨", "今天下小雨") < apart("我养了一只狗", "今天下小雨")
        fewer = await get(service, "/map", limit=2)
        assert ([point["text"] for point in fewer["points"]], fewer["total"]) == (["今天下小雨", "今天下大雨"], 4)


async def test_what_is_forgotten_is_not_on_the_map(tmp_path: Path) -> None:
    async with remembering(tmp_path, encoder=Letters()) as service:
        gone, _ = await service.remember("我养了一只猫", "今天下大雨")
        await service.http.delete(f"/api/memories/{gone.id}")
        found = await get(service, "/map")
        assert ([point["text"] for point in found["points"]], found["total"]) == (["今天下大雨"], 1)


async def test_without_vectors_the_map_is_empty(tmp_path: Path) -> None:
    nothing = {"total": 0, "explained": [0.0, 0.0], "points": []}
    async with remembering(tmp_path) as service:
        await service.remember("我养了一只猫")
        assert await get(service, "/map") == nothing
    async with remembering(tmp_path / "other", encoder=Letters()) as service:
        assert await get(service, "/map") == nothing


@pytest.mark.parametrize("limit", [0, 5001, "many"])
async def test_a_map_has_its_limits(tmp_path: Path, limit: Any) -> None:
    async with remembering(tmp_path) as service:
        assert (await service.http.get("/api/memories/map", params={"limit": limit})).status_code == 422


async def test_memories_are_given_by_their_numbers_those_that_are_left(tmp_path: Path) -> None:
    async with remembering(tmp_path) as service:
        one, two, gone = await service.remember("一", "二", "三")
        await service.http.delete(f"/api/memories/{gone.id}")
        found = await get(service, "", ids=[two.id, gone.id, 404, one.id])
        assert [memory["text"] for memory in found["memories"]] == ["二", "一"]
        assert "next" not in found
        assert await get(service, "", ids=[two.id], scope="user:2") == {"memories": []}
        refused: list[dict[str, Any]] = [
            {"ids": 1, "q": "一"},
            {"ids": 1, "kind": "fact"},
            {"ids": 0},
            {"ids": list(range(1, 202))},
        ]
        for wrong in refused:
            assert (await service.http.get("/api/memories", params=wrong)).status_code == 422
