"""What is trained, over a base that is not: LoRA, the three rows of the recall tokens, and the query head."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from qqmem.engine.injection import Injection
from qqmem.engine.types import RecallTokens
from qqmem.errors import InvalidRequest
from qqmem.train.data import PARTS, Example
from qqmem.train.judged import Aims, judge
from qqmem.train.packing import Row, pack
from qqmem.train.reading import Reading, lora
from qqmem.train.records import Vectors

LOSSES = ("query", *PARTS, "keep", "quiet")
"""What a loss is made of. query: finding the memory. keep, quiet: divergence from the base in ordinary turns, and where
a message begins that needs no memory. The others are cross-entropies of the parts of `data.py`."""

_MIN_TEMPERATURE = 0.01
_SAME = 0.9
"""Cosine of two values from which they may well say the same thing."""
_MARGIN = 0.1


class Trainee(nn.Module):
    """rows: [3, hidden] of RecallTokens. head: [hidden] to [hidden], begins as the identity.

    reading_rank: of the adapter that acts only while a memory is read (reading.py); 0 for none.
    weights: of LOSSES; what is missing does not count. values: [n, hidden], the memories of the run. centre: [hidden].
    begin: a folder that `save` has written, to go on from; its other layers than `targets` stay as they are, and its
    adapter for reading is left behind. Raises InvalidRequest.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: RecallTokens,
        values: Vectors,
        centre: Vectors,
        *,
        rank: int,
        targets: Sequence[str],
        weights: Mapping[str, float],
        reading_rank: int = 0,
        loss: Literal["infonce", "mse"] = "infonce",
        begin: Path | None = None,
    ) -> None:
        super().__init__()
        text = cast(Any, model.get_decoder())
        self._axes = 3 if "mrope_section" in (getattr(text.config, "rope_parameters", None) or {}) else 1
        self._weights = weights
        self._loss = loss
        self._injection = Injection(cast(nn.Embedding, model.get_input_embeddings()))
        matrix = cast(Any, model.get_output_embeddings()).weight
        hidden = matrix.shape[1]
        text.set_attn_implementation("packed")
        self.peft = _adapted(model, text, *_widened(rank, targets, begin))
        self._reading = Reading(self.peft, reading_rank, targets) if reading_rank else None
        self.rows = nn.Parameter(matrix[list(tokens)].detach().float().clone())
        self.head = nn.Linear(hidden, hidden, bias=False)
        nn.init.eye_(self.head.weight)
        # InfoNCE's temperature, learned as its logarithm (CLIP, arXiv 2103.00020).
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.05).log())
        self._recall = tokens
        self.tokens = nn.Buffer(torch.tensor(tokens), persistent=False)
        self.values = nn.Buffer(torch.tensor(values), persistent=False)
        self.centre = nn.Buffer(torch.tensor(centre), persistent=False)
        if begin is not None:
            self._adopt(begin, targets)

    def forward(self, row: Row) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss of a batch, and its parts, detached; those that the batch does not have are missing."""
        states = self._states(row)
        with torch.autocast(states.device.type, enabled=False):
            total, parts = self._written(row, states)
            # What a batch does not need takes part with nothing: several processes must all have the same gradients.
            total = total + 0.0 * (self.head.weight.sum() + self.log_scale)
            if any(example.query >= 0 for example in row.examples) and self._weights.get("query"):
                query = self._found(row, states)
                total, parts["query"] = total + self._weights["query"] * query, query.detach()
        return total, parts

    # --- states

    def _states(self, row: Row, *, base: bool = False) -> Tensor:
        """[tokens, hidden], after the last norm. base: as without anything of ours."""
        text = cast(Any, self.peft.get_base_model()).get_decoder()
        positions = row.positions[None]
        with torch.autocast(row.ids.device.type, enabled=False):
            embedded = self._embedded(row)[None]
        if self._reading and not base:
            self._reading.act_on(row, self._recall)
        with self.peft.disable_adapter() if base else nullcontext():
            output = text(
                inputs_embeds=embedded,
                position_ids=positions if self._axes == 1 else positions.expand(self._axes, 1, -1),
                use_cache=False,
                spans=row.spans,
            )
        return cast(Tensor, output.last_hidden_state[0])

    def _embedded(self, row: Row) -> Tensor:
        embedded = cast(Any, self.peft.get_base_model()).get_input_embeddings()(row.ids)
        is_ours = torch.eq(row.ids[:, None], self.tokens)
        # A product, not an index: its gradient is a sum in a fixed order.
        ours = (is_ours.float() @ self.rows).to(embedded)
        embedded = torch.where(is_ours.any(-1, keepdim=True), ours, embedded)
        pads = [(row.at(n, one.pad), one) for n, one in enumerate(row.examples) if one.pad >= 0]
        if not pads:
            return embedded
        mixed = torch.stack([self._mixed(example) for _, example in pads])
        injected = self._injection.embedding(mixed.cpu().numpy()).to(embedded)
        return embedded.index_copy(0, torch.tensor([at for at, _ in pads], device=embedded.device), injected)

    def _mixed(self, example: Example) -> Tensor:
        rows, weights = zip(*example.mix, strict=True)
        values = self.values
        mixed = torch.tensor(weights, device=values.device) @ values[list(rows)]
        return F.normalize(mixed, dim=0)

    # --- losses

    def _written(self, row: Row, states: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The language model's part, at the places that are learned or kept."""
        wanted: dict[int, dict[str, tuple[str, int]]] = {}
        for n, example in enumerate(row.examples):
            for place, part in enumerate(example.parts):
                if place and part and self._weights.get(part):
                    wanted.setdefault(row.at(n, place - 1), {})["label"] = (part, example.ids[place])
        base_at = self._kept(row)
        for where, kept in base_at.items():
            wanted.setdefault(where, {})["base"] = kept
        if not wanted:
            return states.new_zeros((), dtype=torch.float32), {}
        nothing = ("", -1)
        labels = [one.get("label", nothing) for one in wanted.values()]
        bases = [one.get("base", nothing) for one in wanted.values()]
        num = Counter(part for part, _ in labels + bases)
        # Each part is a mean of its own: there are ten times as many tokens of chat as of memories.
        share = {part: self._weights[part] / n for part, n in num.items() if part}
        device = states.device
        aims = Aims(
            torch.tensor([token for _, token in labels], device=device),
            torch.tensor([share.get(part, 0.0) for part, _ in labels], device=device),
            torch.tensor([index for _, index in bases], device=device),
            torch.tensor([share.get(part, 0.0) for part, _ in bases], device=device),
        )
        base_states = self._base_states(row) if base_at else states[:0].detach()
        at = torch.tensor(list(wanted), device=device)
        matrix = cast(Any, self.peft.get_base_model()).get_output_embeddings().weight
        total, ce, kl = judge(states[at], self.rows, matrix, self.tokens, aims, base_states)
        parts = {
            part: losses[torch.tensor([one == part for one, _ in of], device=device)].mean()
            for losses, of in ((ce, labels), (kl, bases))
            for part in sorted({one for one, _ in of} - {""})
        }
        return total, parts

    def _kept(self, row: Row) -> dict[int, tuple[str, int]]:
        """Places whose distribution is kept, each with its part and its number among them."""
        kept: dict[int, tuple[str, int]] = {}
        for n, example in enumerate(row.examples):
            part = "quiet" if example.kind == "quiet" else "keep"
            if self._weights.get(part):
                kept |= {row.at(n, place): (part, len(kept) + i) for i, place in enumerate(example.keep)}
        return kept

    @torch.no_grad()
    def _base_states(self, row: Row) -> Tensor:
        """The base's states at the places of `_kept`, in their order."""
        parts = {"quiet": "quiet", "chat": "keep"}
        kept = [one for one in row.examples if one.keep and self._weights.get(parts[one.kind])]
        alone = pack(kept, row.ids.device)
        order = {id(one): n for n, one in enumerate(alone.examples)}
        at = [alone.at(order[id(one)], place) for one in kept for place in one.keep]
        return self._states(alone, base=True)[torch.tensor(at, device=row.ids.device)]

    def queries(self, row: Row, states: Tensor) -> Tensor:
        """[queries, hidden]: what the examples that look for a memory look for, as the search compares it."""
        return F.normalize(self._asked(row, states), dim=-1) - self.centre

    def _asked(self, row: Row, states: Tensor) -> Tensor:
        at = [row.at(n, one.query) for n, one in enumerate(row.examples) if one.query >= 0]
        return cast(Tensor, self.head(states[torch.tensor(at, device=states.device)].float()))

    def _found(self, row: Row, states: Tensor) -> Tensor:
        values = self.values
        rights = [one.positives for one in row.examples if one.query >= 0]
        if self._loss == "mse":
            # The vectors as they were before their centre was taken off, but for their lengths.
            whole = self.centre + values * (1 - self.centre @ self.centre).clamp(min=0).sqrt()
            return F.mse_loss(self._asked(row, states), whole[[right[0] for right in rights]])
        queries = self.queries(row, states)
        is_right = torch.zeros(len(queries), len(values), dtype=torch.bool, device=values.device)
        for n, right in enumerate(rights):
            is_right[n, list(right)] = True
        return infonce(F.normalize(queries, dim=-1), values, is_right, self.log_scale.exp())

    @torch.no_grad()
    def ranks(self, examples: Sequence[Example], batch: int) -> list[int]:
        """For each query the rank of the best of its memories among all of the run, from 1."""
        found: list[int] = []
        for start in range(0, len(examples), batch):
            row = pack(examples[start : start + batch], self.values.device)
            scores = F.normalize(self.queries(row, self._states(row)), dim=-1) @ self.values.T
            for score, one in zip(scores, row.examples, strict=True):
                found.append(int((score > score[list(one.positives)].max()).sum()) + 1)
        return found

    # --- files

    def save(self, folder: Path) -> None:
        """Write adapter/ in peft's format, in it reading/ if there is such an adapter, and recall.safetensors."""
        for config in self.peft.peft_config.values():
            config.base_model_name_or_path = Path(str(config.base_model_name_or_path)).name  # not whose disk it is on
        self.peft.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
        for form in (folder / "adapter").rglob("README.md"):
            form.unlink()  # peft's empty form for a model page
        ours = {"rows": self.rows, "head.weight": self.head.weight, "gain": torch.ones(1)}
        save_file(
            {name: one.detach().float().cpu().contiguous() for name, one in ours.items()}, folder / "recall.safetensors"
        )

    def _adopt(self, folder: Path, targets: Sequence[str]) -> None:
        own = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        try:
            for name, weight in load_file(folder / "adapter" / "adapter_model.safetensors").items():
                # The alpha of all adapters is twice their rank: the scale stays. Columns of B that are new are zero.
                own[name][tuple(slice(size) for size in weight.shape)] = weight.to(own[name])
            ours = load_file(folder / "recall.safetensors")
            set_peft_model_state_dict(self.peft, own)
            with torch.no_grad():
                self.rows.copy_(ours["rows"])
                self.head.weight.copy_(ours["head.weight"])
        except (OSError, KeyError, RuntimeError, SafetensorError) as error:
            raise InvalidRequest(f"{folder.name} does not fit this model ({error}).") from error
        for name, weight in self.peft.named_parameters():
            if weight.requires_grad and not any(f".{target}." in name for target in targets):
                weight.requires_grad_(False)


def infonce(queries: Tensor, values: Tensor, is_right: Tensor, scale: Tensor) -> Tensor:
    """Contrastive loss of unit queries [q, hidden] against unit values [n, hidden]; is_right: [q, n].

    Several right ones count together. A wrong one that looks righter than the right one by a margin, and lies beside
    it, is most likely right as well and does not count (Qwen3-Embedding, arXiv 2506.05176). Where nothing is wrong,
    there is nothing to tell apart, and the query is only drawn to its memory.
    """
    cosines = queries @ values.T
    best = cosines.masked_fill(~is_right, -torch.inf).max(-1, keepdim=True).values
    beside = (is_right.float() @ (values @ values.T > _SAME).float()) > 0
    doubtful = ~is_right & beside & (cosines.detach() > best.detach() + _MARGIN)
    scores = (cosines * scale.clamp(max=1 / _MIN_TEMPERATURE)).masked_fill(doubtful, -torch.inf)
    contrast = scores.logsumexp(-1) - scores.masked_fill(~is_right, -torch.inf).logsumexp(-1)
    has_wrong = (~is_right & ~doubtful).any(-1)
    return torch.where(has_wrong, contrast, 1 - best[:, 0]).mean()


def _widened(rank: int, targets: Sequence[str], begin: Path | None) -> tuple[int, Sequence[str]]:
    """Rank and targets that hold what there is to begin from, too. Raises InvalidRequest."""
    if begin is None:
        return rank, targets
    try:
        config = json.loads((begin / "adapter" / "adapter_config.json").read_text("utf-8"))
        names = {str(name).rpartition(".")[2] for name in config["target_modules"]}
        return max(rank, int(config["r"])), sorted({*targets, *names})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{begin.name}, from which the training is to begin, is torn or no release.") from error


def _adapted(model: PreTrainedModel, text: nn.Module, rank: int, targets: Sequence[str]) -> PeftModel:
    """The model with LoRA on those linear layers of its text part. Raises InvalidRequest if it has none of a name."""
    linears = {id(module) for module in text.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in model.named_modules() if id(module) in linears]
    chosen = [name for name in names if name.rpartition(".")[2] in targets]
    if missing := set(targets) - {name.rpartition(".")[2] for name in chosen}:
        has = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        raise InvalidRequest(f"This model has no linear layer {sorted(missing)[0]} to train; it has {has}.")
    adapted = cast(PeftModel, get_peft_model(model, lora(rank, chosen)))
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            # Autocast chooses the type; casting every input to float32 before it only takes time.
            module.cast_input_dtype_enabled = False
    return adapted
