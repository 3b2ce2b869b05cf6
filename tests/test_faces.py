"""Names of faces are the right ones, also those that the model is taught."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, strategies as st

from qqmem import prompts
from qqmem.faces import FACES, face


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (76, "赞"),
        (66, "爱心"),
        (182, "笑哭"),
        (128077, "👍"),
        (128512, "😀"),
        (10068, "❔"),
        (999, "999"),
        (0xD800, "55296"),
    ],
)
def test_a_face_is_its_name_or_the_emoji_itself(number: int, shown: str) -> None:
    assert face(number) == shown


@given(st.integers(0, 0x10FFFF))
def test_every_number_can_be_shown(number: int) -> None:
    assert face(number).isprintable()
    face(number).encode()


def test_the_faces_that_the_model_is_taught_are_called_so() -> None:
    taught = yaml.safe_load((Path(prompts.__path__[0]) / "zh.yaml").read_text("utf-8"))["actions"]
    pairs = re.findall(r"(\d+)([\u4e00-\u9fff]+)[，）]", taught)
    assert len(pairs) == 3
    assert [(int(number), name) for number, name in pairs if FACES[int(number)] != name] == []
