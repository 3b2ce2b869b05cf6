"""The stages and the settings of a person agree."""

from __future__ import annotations

from dataclasses import fields

import pytest

from qqmem.settings_train import Section, Train
from qqmem.train.common import Stage
from qqmem.train.stage1 import Stage1
from qqmem.train.stage2 import Stage2

TRAIN = Train()


@pytest.mark.parametrize(("stage", "section"), [(Stage1(), TRAIN.stage1), (Stage2(), TRAIN.stage2)])
def test_defaults_agree_field_by_field(stage: Stage, section: Section) -> None:
    known = {field.name: getattr(stage, field.name) for field in fields(stage)}
    for name, default in known.items():
        given = section if name in type(section).model_fields else TRAIN
        assert getattr(given, name) == default, f"{type(stage).__name__}.{name}"
    assert set(type(section).model_fields) <= known.keys()
