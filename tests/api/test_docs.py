"""docs/protocol.md and /openapi.json say everything that the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.routing import APIWebSocketRoute
from pydantic import BaseModel, TypeAdapter

from qqmem.api import bridge, chat, frames, live, wire_bridge, wire_live
from qqmem.api.frames import CLIENT_FRAME, ClientFrame, ServerFrame
from qqmem.api.wire import In, Out, to_json
from qqmem.api.wire_live import LiveFrame
from qqmem.app import openapi

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PROTOCOL, re.DOTALL)]
EXAMPLES = [block for block in BLOCKS if isinstance(block, dict)]
LIVE_EXAMPLES = [frame for block in BLOCKS if isinstance(block, list) for frame in block]
BRIDGE_EXAMPLES = [
    json.loads(line) for block in re.findall(r"```jsonl\n(.*?)```", PROTOCOL, re.DOTALL) for line in block.splitlines()
]
LIVE_FRAME: TypeAdapter[LiveFrame] = TypeAdapter(LiveFrame)
SERVICE_FRAME: TypeAdapter[wire_bridge.ServiceFrame] = TypeAdapter(wire_bridge.ServiceFrame)
SERVER_FRAME: TypeAdapter[ServerFrame] = TypeAdapter(ServerFrame)
FRAMES = [
    each
    for each in vars(frames).values()
    if isinstance(each, type) and issubclass(each, BaseModel) and each.__module__ == frames.__name__
    if "type" in each.model_fields
]

LIVE_FRAMES: tuple[type[BaseModel], ...] = get_args(LiveFrame)


def type_of(frame: type[BaseModel]) -> str:
    found: str = get_args(frame.model_fields["type"].annotation)[0]
    return found


CLIENT_TYPES = {type_of(each) for each in get_args(get_args(ClientFrame)[0])}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_protocol_has_every_route() -> None:
    routes = {f"`{method} {path}`" for method, path, _ in operations()}
    found = [*chat.router.routes, *live.router.routes, *bridge.router.routes]
    routes |= {f"`WS {route.path}`" for route in found if isinstance(route, APIWebSocketRoute)}
    assert {"`WS /ws/chat`", "`WS /ws/live`", "`WS /ws/bridge`"} <= routes
    assert {route for route in routes if route not in PROTOCOL} == set()


def test_protocol_has_an_example_of_every_frame() -> None:
    assert len(FRAMES) == 11
    assert {type_of(each) for each in FRAMES} - {example.get("type") for example in EXAMPLES} == set()


def test_protocol_names_every_field_of_every_frame() -> None:
    shapes: list[type[BaseModel]] = [*FRAMES, *LIVE_FRAMES, wire_live.TurnSoFar]
    for each in shapes:
        for name in each.model_fields:
            assert re.search(rf'[`"]{name}[`"]', PROTOCOL), (each.__name__, name)


def test_every_example_of_a_frame_is_one() -> None:
    for example in EXAMPLES:
        if example.get("type") in CLIENT_TYPES:
            CLIENT_FRAME.validate_python(example)
        elif "type" in example:
            assert json.loads(to_json(SERVER_FRAME.validate_python(example))) == example


def test_protocol_has_an_example_of_every_frame_of_a_watcher_and_each_is_one() -> None:
    types = {type for each in LIVE_FRAMES for type in get_args(each.model_fields["type"].annotation)}
    assert len(types) == 18
    assert types == {example["type"] for example in LIVE_EXAMPLES}
    for example in LIVE_EXAMPLES:
        assert json.loads(to_json(LIVE_FRAME.validate_python(example))) == example


def test_protocol_has_an_example_of_every_frame_of_a_bridge_and_each_is_one() -> None:
    theirs: tuple[type[BaseModel], ...] = get_args(get_args(wire_bridge.BridgeFrame)[0])
    ours: tuple[type[BaseModel], ...] = get_args(wire_bridge.ServiceFrame)
    types = {type_of(each) for each in theirs}
    assert types | {type_of(each) for each in ours} == {example["type"] for example in BRIDGE_EXAMPLES}
    for example in BRIDGE_EXAMPLES:
        if example["type"] in types:
            frame = wire_bridge.BRIDGE_FRAME.validate_python(example)
            assert example.keys() <= type(frame).model_fields.keys()
        else:
            assert json.loads(SERVICE_FRAME.validate_python(example).model_dump_json(exclude_none=True)) == example
    for each in (*theirs, *ours):
        for name in each.model_fields:
            assert re.search(rf'[`"]{name}[`"]', PROTOCOL), (each.__name__, name)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def has_example(content: dict[str, Any]) -> bool:
    return all("example" in media or "examples" in resolved(media["schema"]) for media in content.values())


@pytest.mark.parametrize("operation", [pytest.param(op, id=f"{method} {path}") for method, path, op in operations()])
def test_every_operation_has_examples_and_says_which_errors_come(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    if "requestBody" in operation:
        assert has_example(operation["requestBody"]["content"])
    for status, response in operation["responses"].items():
        assert has_example(response.get("content", {})), status
    if operation.get("security"):
        assert {"401", "403", "429"} <= set(operation["responses"])
    else:
        assert {"403", "503"} & set(operation["responses"])


def test_openapi_is_3_1_and_has_the_bearer_scheme() -> None:
    found = openapi()
    assert found["openapi"].startswith("3.1")
    assert found["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_every_example_of_a_body_is_one() -> None:
    shapes = [each for base in (In, Out) for each in subclasses(base) if each.__module__.startswith("qqmem.api.wire")]
    examples = [(each, example) for each in shapes for example in each.model_json_schema().get("examples", ())]
    assert len(examples) > 15
    for shape, example in examples:
        found = shape.model_validate(example)
        if isinstance(found, Out):
            assert json.loads(to_json(found)) == example


def subclasses(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in base.__subclasses__():
        yield each
        yield from subclasses(each)
