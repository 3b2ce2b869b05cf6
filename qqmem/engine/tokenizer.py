"""A transformers tokenizer behind our Protocol: text that a person typed never becomes a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qqmem.engine.recall import RECALL
from qqmem.engine.types import RecallTokens
from qqmem.errors import ModelError

_PLACE = re.compile("\ue000(\\d+)\ue001")
"""Stands for the n-th content while the chat template is rendered; private-use characters."""


class ChatTokenizer:
    """Encodes contents and chat template apart.

    The template is rendered over placeholders and cut there: its own parts are encoded with control tokens, the
    contents by a second tokenizer that has none. `apply_chat_template` alone would take a typed `<|im_end|>` at
    its word.

    rows: of the model's embedding; the tokens of recalls are put on rows that no token uses yet, if there are any.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: int = 0) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError("This model has no fast tokenizer (tokenizer.json); take one that has.")
        if not tokenizer.chat_template:
            raise ModelError("This model has no chat template, so it cannot chat; take an instruct or chat model.")
        self._tokenizer = tokenizer
        self._recall = _add_recall(tokenizer, rows)
        self._plain = _without_added_tokens(tokenizer.backend_tokenizer)
        self._encode_template = lru_cache(maxsize=1024)(self._encode_control)
        opening = self._rendered([("user", "?")])[-1]
        self._thinks = "<think>" in opening and "</think>" not in opening

    @property
    def thinks(self) -> bool:
        """Whether the chat template opens the assistant's turn with thinking."""
        return self._thinks

    @property
    def recall(self) -> RecallTokens | None:
        """The tokens of recalls; None for a model that has no rows for them."""
        return self._recall

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: no control token comes out, whatever it says."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def render(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Token ids of the chat template over (role, plain text), up to where the assistant writes."""
        ids: list[int] = []
        for index, part in enumerate(self._rendered(messages)):
            ids += self.encode(messages[int(part)][1]) if index % 2 else self._encode_template(part)
        return ids

    def detokenizer(self) -> StreamDecoder:
        return StreamDecoder(self._tokenizer.backend_tokenizer)

    def _rendered(self, messages: Sequence[tuple[str, str]]) -> list[str]:
        """Template text at even places, at odd ones the number of the content that stands between."""
        chat = [{"role": role, "content": f"\ue000{i}\ue001"} for i, (role, _) in enumerate(messages)]
        text = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return _PLACE.split(str(text))

    def _encode_control(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


class StreamDecoder:
    """Decodes the tokens of one text as they come, in whole characters."""

    def __init__(self, tokenizer: FastTokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._unfinished: list[int] = []

    def step(self, token: int) -> str:
        """Text that `token` completes; empty while a character is unfinished."""
        text: str | None = self._stream.step(self._tokenizer, token)
        if text is None:
            self._unfinished.append(token)
            return ""
        self._unfinished.clear()
        return text

    def flush(self) -> str:
        """What is left, with U+FFFD for bytes that never became a character."""
        text: str = self._tokenizer.decode(self._unfinished, skip_special_tokens=True)
        self._unfinished.clear()
        return text


def _add_recall(tokenizer: PreTrainedTokenizerFast, rows: int) -> RecallTokens | None:
    """Never resizes the matrix: a released model and an adapter fit its size."""
    highest = max(tokenizer.get_vocab().values())
    if not all(token in tokenizer.get_vocab() for token in RECALL):
        if highest + len(RECALL) >= rows:
            return None
        tokenizer.add_special_tokens({"additional_special_tokens": list(RECALL)}, replace_extra_special_tokens=False)
    tokens = RecallTokens(*(tokenizer.get_vocab()[token] for token in RECALL))
    return tokens if max(tokens) < rows else None


def _without_added_tokens(tokenizer: FastTokenizer) -> FastTokenizer:
    """The same tokenizer without added tokens, in which nothing is special."""
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    state["post_processor"] = None
    return FastTokenizer.from_str(json.dumps(state))
