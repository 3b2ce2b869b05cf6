"""A release on the serving model: LoRA adapters beside the weights, never merged, and the trained part of recalls.

LoRA: Hu et al. 2021, arXiv:2106.09685; files as peft writes them. The base stays what it was, int8 copies included, so
a release is swapped or taken off in milliseconds, and vectors of memories are always made by the base alone. One
adapter acts on every token; the other, if there is one, only where a memory is read (qqmem/train/reading.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qqmem.errors import ModelError

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class LowRank:
    """down [in, rank] and up [rank, out], the scale in it."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class Release:
    """What training has made, as a folder holds it. rows: [3, hidden], float32, in the order of RecallTokens.

    layers, reading: by the path of the linear layer from `layers.` on; the second is for where a memory is read. head:
    [hidden, hidden], None is the identity.
    """

    layers: Mapping[str, LowRank]
    reading: Mapping[str, LowRank]
    rows: Tensor
    head: Tensor | None
    gain: float


class Adapted(nn.Module):
    """A linear layer, and beside it what a release adds."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.low_rank: LowRank | None = None
        self.reading: LowRank | None = None
        self.places: Tensor | None = None
        """Where `reading` acts, of the tokens that come next; None is nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.low_rank is not None:
            y = y + (x @ self.low_rank.down) @ self.low_rank.up
        if self.reading is not None and self.places is not None:
            read = x.index_select(-2, self.places)
            y = y.index_add(-2, self.places, (read @ self.reading.down) @ self.reading.up)
        return y


class Adapter:
    """The low-rank terms of one decoder. Without a release, layers are as they were."""

    def __init__(self, decoder: nn.Module) -> None:
        self._decoder = decoder
        self._adapted: dict[str, Adapted] = {}
        self._layers: Mapping[str, LowRank] = {}
        self._reading: Mapping[str, LowRank] = {}

    def put(self, layers: Mapping[str, LowRank], reading: Mapping[str, LowRank]) -> None:
        """Serve these terms in place of the ones before; none takes them off.

        Raises ModelError, and changes nothing.
        """
        self._wrap([*layers.items(), *reading.items()])
        self._layers, self._reading = layers, reading
        self._switch(on=True)

    def read_at(self, places: Sequence[int], device: torch.device) -> None:
        """At these places of the tokens that come next, a memory is read."""
        if self._reading:
            at = torch.tensor(places, device=device) if places else None
            for layer in self._adapted.values():
                layer.places = at

    def move(self, device: torch.device) -> None:
        """Hold the terms there. The layers that they stand beside are not ours to move."""
        self._layers, self._reading = (
            {name: LowRank(one.down.to(device), one.up.to(device)) for name, one in layers.items()}
            for layers in (self._layers, self._reading)
        )
        self._switch(on=True)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Meanwhile the base alone."""
        self._switch(on=False)
        try:
            yield
        finally:
            self._switch(on=True)

    def _switch(self, *, on: bool) -> None:
        for name, layer in self._adapted.items():
            layer.low_rank = self._layers.get(name) if on else None
            layer.reading = self._reading.get(name) if on else None

    def _wrap(self, layers: Sequence[tuple[str, LowRank]]) -> None:
        here = {name[name.index("layers.") :]: name for name, _ in self._decoder.named_modules() if "layers." in name}
        for name, low_rank in layers:
            layer = self._adapted.get(name) or (self._decoder.get_submodule(here[name]) if name in here else None)
            shape = (low_rank.down.shape[0], low_rank.up.shape[1])
            if layer is None or _shape(layer) != shape:
                raise ModelError(f"The release does not fit this model: its layer {name} has the shape {shape}.")
        for name, _ in layers:
            if name not in self._adapted:
                self._adapted[name] = Adapted(self._decoder.get_submodule(here[name]))
                self._decoder.set_submodule(here[name], self._adapted[name])


def read_release(folder: Path, like: Tensor) -> Release:
    """Read `adapter/`, in it `reading/`, and `recall.safetensors`. like: whose type and device the adapters take.

    Raises ModelError.
    """
    try:
        recall = load_file(folder / "recall.safetensors")
        reading = folder / "adapter" / "reading"
        return Release(
            _read_adapter(folder / "adapter", like),
            _read_adapter(reading, like) if reading.is_dir() else {},
            recall["rows"].float(),
            recall.get("head.weight"),
            float(recall.get("gain", 1.0)),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"The release {folder.name} is torn or no release; roll back, or train again.") from error


def _read_adapter(folder: Path, like: Tensor) -> Mapping[str, LowRank]:
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    weights = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    return {
        name.removesuffix(_DOWN)[name.index("layers.") :]: LowRank(
            down.T.to(like).contiguous(), (weights[name.replace(_DOWN, _UP)].T * scale).to(like).contiguous()
        )
        for name, down in weights.items()
        if name.endswith(_DOWN)
    }


def _shape(layer: nn.Module) -> tuple[int, int]:
    linear = layer.base if isinstance(layer, Adapted) else layer
    weight = linear.weight
    assert isinstance(weight, torch.Tensor), "only linear layers are adapted"
    return (weight.shape[1], weight.shape[0])
