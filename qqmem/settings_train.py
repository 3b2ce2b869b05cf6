"""The settings of training, and what a section of settings is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, values: Any) -> Any:
        """A section whose lines are all commented out is None in YAML, and means its defaults."""
        if not isinstance(values, Mapping):
            return values
        inner = {name for name, field in cls.model_fields.items() if is_section(field.annotation)}
        return {name: value for name, value in values.items() if value is not None or name not in inner}


def is_section(kind: object) -> TypeGuard[type[Section]]:
    """Whether a field of this type is a section."""
    return isinstance(kind, type) and issubclass(kind, Section)


class Stage1(Section):
    """The first stage: what the model asks for when it writes `<recall>`."""

    epochs: int = Field(default=3, ge=1, description="How often each memory is asked for, in three ways.")
    lr: float = Field(default=1e-3, gt=0, description="Learning rate of the adapter.")
    head_lr: float = Field(default=5e-4, gt=0, description="Learning rate of the query head.")
    batch: int = Field(default=32, ge=1, description="Cues of one step; each is told from the memories of the others.")
    rank: int = Field(default=8, ge=1, description="Rank of the adapter.")
    targets: tuple[str, ...] = Field(
        default=("q_proj", "v_proj"), min_length=1, description="The linear layers that are adapted."
    )
    loss: Literal["infonce", "mse"] = Field(
        default="infonce",
        description="infonce tells the right memory from the others; mse copies its vector, for comparison only.",
    )
    cues: Literal["chat", "text"] = Field(
        default="chat",
        description="What looks for a memory: chat, that is what people say; text, its own text, for comparison only.",
    )
    chat: int = Field(default=2, ge=0, description="Ordinary turns that are shown beside each 32 cues.")
    lm_weight: Weight = Field(default=0.1, description="Weight of writing ordinary turns and beginnings of turns.")
    kl_weight: Weight = Field(default=1.0, description="Weight of writing ordinary turns as the untrained model does.")


class Stage2(Section):
    """The second stage: when a memory is needed, and how it is read from its vector."""

    epochs: int = Field(default=4, ge=1, description="How often each memory is seen.")
    lr: float = Field(default=2e-4, gt=0, description="Learning rate of the adapter.")
    head_lr: float = Field(default=5e-4, gt=0, description="Learning rate of the query head.")
    batch: int = Field(default=16, ge=1, description="Turns of one step.")
    rank: int = Field(default=8, ge=1, description="Rank of the adapter.")
    targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="The linear layers that are adapted.",
    )
    chat: float = Field(default=0.15, ge=0, lt=1, description="Share of ordinary turns, by tokens.")
    foreign: Fraction = Field(
        default=0.3, description="Share of the memories that come up where they are not needed, by tokens."
    )
    quiet: Weight = Field(default=0.5, description="Messages that need no memory, for each that needs one.")
    text_weight: Weight = Field(default=1.0, description="Weight of reading memories from their vectors.")
    chat_weight: Weight = Field(default=0.1, description="Weight of writing the replies of ordinary turns themselves.")
    kl_weight: Weight = Field(default=3.0, description="Weight of writing ordinary turns as the untrained model does.")
    query_weight: Weight = Field(default=0.3, description="Weight of what stage 1 has learned, so that it stays.")
    quiet_weight: Weight = Field(default=1.0, description="Weight of not asking where no memory is needed.")
    readings: int = Field(default=3, ge=0, description="How often each memory is read by itself besides, in an epoch.")
    reading_lr: float = Field(
        default=1.5e-3, gt=0, description="Learning rate of the adapter that acts only while a memory is read."
    )
    reading_rank: int = Field(
        default=8, ge=0, description="Rank of the adapter that acts only while a memory is read; 0 is none."
    )


class Gate(Section):
    """What a trained model must reach before it serves, on questions that it has not seen."""

    recall_at_1: Fraction = Field(default=0.8, description="Least share of questions whose memory is found first.")
    exact: Fraction = Field(default=0.5, description="Least share of memories that are written exactly.")
    trigger_precision: Fraction = Field(
        default=0.95, description="Least share of its recalls that are needed, for the model to decide alone."
    )
    trigger_recall: Fraction = Field(
        default=0.9, description="Least share of needed recalls that it makes, for the model to decide alone."
    )
    perplexity_rise: float = Field(
        default=0.03, ge=0, description="Most by which it may write ordinary turns worse: .03 is 3 %."
    )


class Train(Section):
    """When and how the model is trained on what is remembered."""

    enabled: bool = Field(
        default=False, description="Train by schedule. By hand (`qqmem train run`) it can always be started."
    )
    hour: int = Field(default=2, ge=0, le=23, description="Hour of the day at which a run begins, in local time.")
    first_delay: int = Field(default=2, ge=0, description="Days before the first run.")
    interval: int = Field(default=3, ge=1, description="Days from one run to the next.")
    memories: int = Field(
        default=500, ge=1, description="Most memories of one run: pinned and used ones first, facts before messages."
    )
    questions: int = Field(
        default=4, ge=1, le=16, description="Questions that the model thinks up for each memory; one is kept for tests."
    )
    sft_path: Path | None = Field(
        default=None,
        description="Ordinary conversations (JSON lines: messages, instruction and output, or query and response) that "
        "keep the model what it is. Empty: it writes some itself.",
    )
    gpu: Literal["share", "exclusive"] = Field(
        default="share",
        description="share: the bot goes on beside the training. exclusive: one GPU is too small for both, and the bot "
        "answers from the CPU meanwhile, more slowly.",
    )
    launch: tuple[str, ...] = Field(
        default=(), description="More arguments of `accelerate launch`, such as --num_processes and 2 for two GPUs."
    )
    keep: int = Field(default=3, ge=1, description="Trained releases that are kept, to go back to.")
    time_limit: float = Field(default=43_200.0, gt=0, description="Seconds that one run may take.")
    hang_limit: float = Field(
        default=900.0, gt=0, description="Seconds without progress after which a stage is taken for hung."
    )
    compare: bool = Field(
        default=False, description="Also train the query by the plain recipe, to show it beside ours in the report."
    )
    accumulation: int = Field(default=1, ge=1, description="Batches that are added up to one step.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient of one step.")
    warmup: Fraction = Field(default=0.05, description="Share of the steps in which the learning rate rises.")
    checkpointing: bool = Field(default=False, description="Less memory for activations, more time.")
    save_steps: int = Field(default=50, ge=1, description="Steps between two points from which a run can go on.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="What the trainers compute in. auto: bfloat16; float32 takes more time and memory."
    )
    max_tokens: int = Field(default=1024, ge=64, description="Longest turn that is trained on, in tokens.")
    seed: int = Field(default=0, ge=0, description="Makes a run repeatable.")
    stage1: Stage1 = Field(default_factory=Stage1)
    stage2: Stage2 = Field(default_factory=Stage2)
    gate: Gate = Field(default_factory=Gate)
