"""Run directories of a tiny model and a few memories, as an export writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from qqmem.engine.prompt import Prompts
from tests.tiny import CHATML, tiny_qwen3vl, tiny_tokenizer

HIDDEN = 64
THINKING = CHATML.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif")
"""A template that opens the assistant's turn with thinking, as Qwen3's does."""

MEMORIES: list[dict[str, Any]] = [
    {
        "id": 1,
        "text": "阿木养了一只猫",
        "subject_id": "10001",
        "speaker_name": "阿木",
        "kind": "fact",
        "scope": "user:10001",
        "cues": [
            {"kind": "source", "text": "我家来了只小猫"},
            {"kind": "question", "text": "我养了什么？"},
            {"kind": "thought", "text": "阿木养的是什么来着："},
        ],
        "held_out": [{"kind": "question", "text": "阿木家有什么动物？"}],
    },
    {
        "id": 2,
        "text": "Lily likes tea",
        "subject_id": "10002",
        "speaker_name": "Lily",
        "kind": "fact",
        "scope": "member:10002@20002",
        "cues": [{"kind": "question", "text": "what does Lily drink?", "reply": "Tea, I think!"}],
        "held_out": [],
    },
    {
        "id": 3,
        "text": "老高：周六爬山",
        "subject_id": "10003",
        "speaker_name": "老高",
        "kind": "message",
        "scope": "group:20002",
        "cues": [{"kind": "source", "text": "周六爬山。"}],
        "held_out": [],
    },
]

NEGATIVES: list[dict[str, Any]] = [{"text": "今天好累"}, {"text": "1+1=?", "reply": "2"}]

SFT: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好呀"}]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "<think>\nshort\n</think>\n\nhey"},
            {"role": "user", "content": "bye"},
            {"role": "assistant", "content": "see you"},
        ]
    },
]

SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "save_steps": 2,
    "max_tokens": 512,
    "stage1": {"epochs": 3, "batch": 2, "chat": 8},
    "stage2": {"epochs": 2, "batch": 4},
}


def save_model(folder: Path, template: str = CHATML, model: PreTrainedModel | None = None) -> Path:
    """A folder in transformers' format. By default the tiny Qwen3-VL."""
    (model or tiny_qwen3vl()).save_pretrained(str(folder))
    tiny_tokenizer(template).save_pretrained(str(folder))
    return folder


def make_run(
    folder: Path,
    model: Path,
    *,
    memories: Iterable[Mapping[str, Any]] = MEMORIES,
    negatives: Iterable[Mapping[str, Any]] = NEGATIVES,
    sft: Iterable[Mapping[str, Any]] = SFT,
    settings: Mapping[str, Any] = SETTINGS,
    seed: int = 7,
) -> Path:
    """Write a run directory."""
    folder.mkdir(parents=True)
    memories = list(memories)
    parts = dict(Prompts.load("zh", None, ["persona"]).parts) | {"persona": "你叫{bot_name}。", "rules": "短。"}
    run = {"id": "0001", "seed": seed, "model": str(model), "prompts": parts, "bot_name": "小忆", "settings": settings}
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    for name, lines in (("memories", memories), ("negatives", negatives), ("sft", sft)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    values = np.random.default_rng(3).normal(size=(len(memories), HIDDEN)).astype(np.float32)
    np.save(folder / "values.npy", values / np.linalg.norm(values, axis=-1, keepdims=True))
    np.save(folder / "centre.npy", np.full(HIDDEN, 0.1, np.float32))
    return folder


def losses(folder: Path, stage: str) -> list[tuple[int, float]]:
    """The losses that a run has told, by step; told twice, they are the same."""
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text("utf-8").splitlines()]
    told: dict[int, Any] = {}
    for line in lines:
        if line["stage"] == stage and "loss" in line:
            assert told.setdefault(line["step"], line["loss"]) == line["loss"], f"step {line['step']} differs"
    return sorted((step, loss["total"]) for step, loss in told.items())
