"""Random models of a few hundred thousand weights: the production class, and the embedded default's."""

from __future__ import annotations

from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from qqmem.engine.model import LanguageModel
from qqmem.engine.tokenizer import ChatTokenizer

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
VOCAB = 512

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """One token a byte, and ChatML's control tokens; `<think>` is added but not special, as in Qwen3."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(CONTROL[:3])
    core.add_tokens(CONTROL[3:])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", chat_template=template)


def tiny_qwen2(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(1)
    return _ready(Qwen2ForCausalLM(Qwen2Config(**_shape(), max_position_embeddings=4096)), dtype)


def tiny_qwen3vl(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(2)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=_shape()
        | {"head_dim": 16, "rope_parameters": rope, "tie_word_embeddings": True, "max_position_embeddings": 4096},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=500,
        video_token_id=501,
        vision_start_token_id=502,
        vision_end_token_id=503,
    )
    return _ready(Qwen3VLForConditionalGeneration(config), dtype)


def _ready(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    ready: PreTrainedModel = cast(Any, model).to(dtype).eval()
    return ready


def _shape() -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # Spread the logits, so that greedy choices of a random model are not ties.
        "initializer_range": 0.2,
    }


def flat(
    model: PreTrainedModel, kv_cache_bytes: int = 1 << 24, max_context: int = 4096, rows: int = 0
) -> LanguageModel:
    """The model behind the engine's Protocol. It attends our way from then on. rows: VOCAB for one that recalls."""
    tokenizer = ChatTokenizer(tiny_tokenizer(), rows)
    return LanguageModel(model, tokenizer, max_context=max_context, kv_cache_bytes=kv_cache_bytes)


def greedy(model: PreTrainedModel, prompt: list[int], n: int) -> list[int]:
    """What `generate` writes: n tokens, fewer if it ends its turn. Ask before `flat` takes the model."""
    out = cast(Any, model).generate(torch.tensor([prompt]), max_new_tokens=n, do_sample=False)
    return [int(t) for t in out[0, len(prompt) :]]
