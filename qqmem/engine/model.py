"""A transformers model that makes one forward for everything that runs.

All tokens of all sequences lie in one row [1, tokens]: one for each sequence that is writing, a chunk for each whose
prompt is being read. The linear layers see them together; only attention must know who is who (attention.py). Positions
are ours, on three axes where the model has them (Qwen3-VL).

On CUDA the same code runs with SDPA for every segment. That path is written plainly and not tuned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from qqmem.engine.adapter import Adapter, read_release
from qqmem.engine.attention import Segment
from qqmem.engine.cache import KV, PrefixCache
from qqmem.engine.injection import Injection, begin_rows, vector
from qqmem.engine.quant import Int8Linear, crossover, quantise_linears
from qqmem.engine.recall import RECALL
from qqmem.engine.sampling import Sampler
from qqmem.engine.tokenizer import ChatTokenizer
from qqmem.engine.types import Request, Row, Running, Traits, Vector
from qqmem.errors import ModelError

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Held:
    """A sequence that the model holds."""

    kv: KV
    sampler: Sampler
    is_base: bool = False
    """Whether it reads by the base alone, without the release."""
    is_reading: bool = False
    """Whether it has read the pad of a memory, and not yet the `</recall>` behind it."""

    @property
    def length(self) -> int:
        return self.kv.length


class Feed(NamedTuple):
    """What a sequence reads next, behind its KV. value: takes the place of the first token's embedding: a memory.

    is_reading: whether the tokens go on with one.
    """

    kv: KV
    tokens: Sequence[int]
    value: Vector | None = None
    is_reading: bool = False

    def reads(self, close: int | None) -> range:
        """Which of the tokens a memory is read from: all up to `</recall>`, if there is a memory."""
        if self.value is None and not self.is_reading:
            return range(0)
        return range(next((n for n, token in enumerate(self.tokens) if token == close), len(self.tokens)))


class LanguageModel:
    """`engine.types.Model` over a transformers model. For one thread only, but for `tokenizer`."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: ChatTokenizer, *, max_context: int, kv_cache_bytes: int
    ) -> None:
        config = cast(Any, model.config.get_text_config())
        self.name = type(model).__name__
        self.tokenizer = tokenizer
        self.max_context = min(max_context, config.max_position_embeddings)
        self.hidden_size = int(config.hidden_size)
        self.end_tokens = _end_tokens(model)
        self.cache = PrefixCache(kv_cache_bytes)
        self.decoder = cast(nn.Module, model.get_decoder())
        self._head = cast(nn.Module, model.get_output_embeddings())
        self._embed = cast(nn.Embedding, model.get_input_embeddings())
        self.injection = Injection(self._embed)
        self._close = tokenizer.recall.close if tokenizer.recall else None
        self._adapter = Adapter(self.decoder)
        self._untrained: list[Tensor] | None = None
        self._parameters = sum(each.numel() for each in model.parameters())
        self._is_int8 = False
        self._device = self._home = model.device
        self._axes = 3 if "mrope_section" in (getattr(config, "rope_parameters", None) or {}) else 1
        _check_flat(model, self)

    @property
    def traits(self) -> Traits:
        """What it is, for people."""
        return Traits(
            device=str(self._device),
            dtype=str(self._embed.weight.dtype).removeprefix("torch."),
            int8=self._is_int8,
            threads=torch.get_num_threads(),
            parameters=self._parameters,
        )

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV that is kept for conversations at rest."""
        return self.cache.nbytes

    def start(self, request: Request) -> Held:
        """Begin behind the longest prefix that is cached."""
        sampler = Sampler(request.sampling, request.prompt, self._device)
        # Vectors stay what they are whatever is trained; and the kept KV is the release's.
        if request.base or request.wants == "state":
            return Held(KV(), sampler, is_base=True)
        return Held(self.cache.take(request.conversation, request.prompt), sampler)

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        """One forward for all rows; they advance together, or, when it raises, not at all."""
        held = [cast(Held, row.running) for row in rows]
        with torch.inference_mode():
            hidden = self._hidden(held, rows)
            writing = [i for i, row in enumerate(rows) if row.want in ("token", "likeliest")]
            logits = dict(zip(writing, self.logits(hidden[writing]) if writing else (), strict=True))
            got = [self._got(row, hidden[i], logits.get(i)) for i, row in enumerate(rows)]
        for h, row in zip(held, rows, strict=True):
            h.is_reading = (h.is_reading or row.value is not None) and self._close not in row.tokens
            h.kv.commit(row.tokens)
        return got

    def _hidden(self, held: Sequence[Held], rows: Sequence[Row]) -> Tensor:
        """[rows, hidden]: those that read by the base go by themselves."""
        feed = [Feed(h.kv, row.tokens, row.value, h.is_reading) for h, row in zip(held, rows, strict=True)]
        base = [i for i, h in enumerate(held) if h.is_base]
        if not base:
            return self.forward(feed)
        others = [i for i, h in enumerate(held) if not h.is_base]
        with self._adapter.off():
            parts = [self.forward([feed[i] for i in base])]
        if others:
            parts.append(self.forward([feed[i] for i in others]))
        return torch.cat(parts)[torch.tensor([*base, *others]).argsort()]

    def _got(self, row: Row, hidden: Tensor, logits: Tensor | None) -> int | Vector | None:
        """What a row wants. hidden: [hidden], of its last token. logits: [vocab], if it wants a token."""
        if logits is not None:
            logits[list(row.banned)] = float("-inf")
            if row.opening is not None:
                if lead_of(row.opening.token, logits) > row.opening.margin:
                    return row.opening.token
                logits[row.opening.token] = float("-inf")
            return int(logits.argmax()) if row.want == "likeliest" else cast(Held, row.running).sampler.sample(logits)
        match row.want:
            case "query":
                return self.injection.query(hidden)
            case "state":
                return vector(hidden)
        return None

    def forward(self, feed: Sequence[Feed]) -> Tensor:
        """Read each sequence's tokens behind its KV, without committing them.

        Returns the last hidden state of each, after the final norm: [sequences, hidden].
        """
        ends = torch.tensor([len(one.tokens) for one in feed], device=self._device).cumsum(0) - 1
        return self.states(feed)[ends]

    def states(self, feed: Sequence[Feed]) -> Tensor:
        """As `forward`, but the states of all tokens: [tokens, hidden]."""
        counts = [len(one.tokens) for one in feed]
        starts = [0, *accumulate(counts)]
        ids = torch.tensor([token for one in feed for token in one.tokens], device=self._device)
        places = torch.cat([torch.arange(one.kv.length, one.kv.length + len(one.tokens)) for one in feed])
        positions = places.to(self._device)[None]
        embedded = self._embed(ids)
        for one, at in zip(feed, starts, strict=False):
            if one.value is not None:
                embedded[at] = self.injection.embedding(one.value)
        reads = [at + n for one, at in zip(feed, starts, strict=False) for n in one.reads(self._close)]
        self._adapter.read_at(reads, self._device)
        output = self.decoder(
            inputs_embeds=embedded[None],
            position_ids=positions if self._axes == 1 else positions.expand(self._axes, 1, -1),
            use_cache=False,
            segments=[Segment.of(one.kv, len(one.tokens), self._device) for one in feed],
        )
        return cast(Tensor, output.last_hidden_state[0])

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden] -> [n, vocab]."""
        return cast(Tensor, self._head(hidden))

    def use_int8(self, max_rows: int) -> None:
        """Run the linear layers in int8 for steps of at most `max_rows` tokens."""
        self._is_int8 = True
        quantise_linears(self.decoder, max_rows)
        if isinstance(self._head, nn.Linear):
            self._head = Int8Linear(self._head, max_rows)

    def use_release(self, folder: Path | None) -> None:
        """Serve what training has made, or None: the base as it is. The kept KV is dropped.

        Raises ModelError, and then serves on as before.
        """
        tokens = self.tokenizer.recall
        if tokens is None:
            raise ModelError(f"{self.name} has no free rows for the tokens of recalls, so no release can be served.")
        weights = self._embed.weight, cast(Tensor, self._head.weight)
        if self._untrained is None:
            self._untrained = [weight[list(tokens)].detach().clone() for weight in weights]
        rows, release = self._untrained, None
        if folder is not None:
            release = read_release(folder, weights[0])
            rows = [release.rows, release.rows]
            if release.rows.shape != self._untrained[0].shape:
                raise ModelError(f"The release does not fit this model: its rows have the shape {release.rows.shape}.")
        self._adapter.put(*((release.layers, release.reading) if release else ({}, {})))
        with torch.no_grad():
            for weight, new in zip(weights, rows, strict=True):
                weight[list(tokens)] = new.to(weight)
        if isinstance(self._head, Int8Linear):
            self._head.refresh(tokens)
        self.injection = Injection(self._embed, release.head, release.gain) if release else Injection(self._embed)
        self.cache.clear()

    def move(self, device: str | None) -> None:
        """Compute on another device from now on; None is the one that it was loaded on. Drops the kept KV.

        A model that was loaded on the CPU stays there. Whoever writes goes on. Raises torch's error if there is no
        room, and then stays where it was.
        """
        there, before = self._home if device is None else torch.device(device), self._device
        if self._home.type == "cpu" or there == before:
            return
        self.cache.clear()
        try:
            self._put_on(there)
        except Exception:
            self._put_on(before)
            raise
        torch.cuda.empty_cache()  # what has left the GPU is for others

    def _put_on(self, device: torch.device) -> None:
        for part in (self.decoder, self._embed, self._head):
            part.to(device)
        self._adapter.move(device)
        self.injection.move(device)
        self._device = device

    def release(self, running: Running, keep: str | None) -> None:
        """End a sequence and keep its KV for the conversation's next turn, if it has one.

        Kept is what comes before the first recall: no injected vector, and no memory's text.
        """
        held = cast(Held, running)
        if keep is not None and not held.is_base:
            kv, recall = held.kv, self.tokenizer.recall
            if recall is not None and recall.open in kv.tokens:
                kv.cut(kv.tokens.index(recall.open))
            self.cache.keep(keep, kv)

    def close(self) -> None:
        self.cache.clear()


def lead_of(token: int, logits: Tensor) -> float:
    """By how many nats a token is ahead of the likeliest other; negative if it is behind. logits: [vocab]."""
    others = logits.clone()
    others[token] = float("-inf")
    return float(logits[token]) - float(others.max())


def load_model(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    int8: bool = True,
    threads: int = 0,
    max_context: int = 16384,
    kv_cache_mb: int = 1024,
) -> LanguageModel:
    """Load a local folder in transformers' format; the arguments are the settings of the same names.

    Raises ModelError.
    """
    disable_progress_bar()  # a bar of two seconds only clutters the service's log
    if threads:
        torch.set_num_threads(threads)
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    precision = {"auto": torch.bfloat16, "bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    try:
        config = AutoConfig.from_pretrained(folder)
        model = model_class(config).from_pretrained(folder, dtype=precision, local_files_only=True).to(target).eval()
        rows = model.get_input_embeddings().num_embeddings
        tokenizer = ChatTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True), rows)
    except ModelError:
        raise
    except Exception as error:  # transformers, safetensors and torch each have errors of their own for a broken folder
        raise ModelError(f"The model in {folder} cannot be loaded: {_first_line(error)}") from error
    if tokenizer.recall is None:
        log.warning("%s has no free rows for the tokens of recalls: it writes without memories", folder.name)
    else:
        plain = {token: tokenizer.encode(text) for token, text in zip(tokenizer.recall, RECALL, strict=True)}
        begin_rows(model, tokenizer.recall, plain)
    language_model = LanguageModel(model, tokenizer, max_context=max_context, kv_cache_bytes=kv_cache_mb << 20)
    most = crossover(language_model.decoder) if int8 and target.type == "cpu" and precision == torch.bfloat16 else 0
    if most:
        language_model.use_int8(most)
    log.info("%s on %s, %s, int8 up to %d rows", language_model.name, target, precision, most)
    return language_model


def model_class(config: PreTrainedConfig) -> Any:
    """Models that also see images have a class of their own."""
    sees = hasattr(config, "vision_config")
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def _end_tokens(model: PreTrainedModel) -> frozenset[int]:
    ids = model.generation_config.eos_token_id if model.generation_config else None
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_flat(model: PreTrainedModel, flat: LanguageModel) -> None:
    """Switch the text model to flat attention, and see that its logits stay what they were.

    Raises ModelError for an architecture that does more around its layers than we do (sliding windows, scaled
    logits, state spaces): such a model would write nonsense, not fail.
    """
    ids = list(range(100, 112))
    with torch.inference_mode():
        expected = model(torch.tensor([ids], device=model.device)).logits[0, -1].float()
        cast(PreTrainedModel, flat.decoder).set_attn_implementation("flat")
        kv = KV()
        flat.forward([Feed(kv, ids[:7])])
        kv.commit(ids[:7])
        got = flat.logits(flat.forward([Feed(kv, ids[7:])]))[0].float()
    if nn.functional.cosine_similarity(expected, got, dim=0) < 0.99:
        raise ModelError(
            f"{type(model).__name__} does not run right on this engine; take a model of a plain architecture, "
            "such as Qwen2.5, Qwen3 or Qwen3-VL."
        )
