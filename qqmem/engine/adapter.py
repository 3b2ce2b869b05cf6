"""A release on the serving model: a LoRA adapter beside the weights, never merged, and the trained part of recalls.

LoRA: Hu et al. 2021, arXiv:2106.09685; files as peft writes them. The base stays what it was, int8 copies included, so
a release is swapped or taken off in milliseconds, and vectors of memories are always made by the base alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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

    layers: by the path of the linear layer from `layers.` on. head: [hidden, hidden], None is the identity.
    """

    layers: Mapping[str, LowRank]
    rows: Tensor
    head: Tensor | None
    gain: float


class Adapted(nn.Module):
    """A linear layer, and beside it what a release adds."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.low_rank: LowRank | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y if self.low_rank is None else y + (x @ self.low_rank.down) @ self.low_rank.up


class Adapter:
    """The low-rank terms of one decoder. Without a release, layers are as they were."""

    def __init__(self, decoder: nn.Module) -> None:
        self._decoder = decoder
        self._adapted: dict[str, Adapted] = {}
        self._layers: Mapping[str, LowRank] = {}

    def put(self, layers: Mapping[str, LowRank]) -> None:
        """Serve these terms in place of the ones before; none takes them off.

        Raises ModelError, and changes nothing.
        """
        if layers:
            self._wrap(layers)
        self._layers = layers
        self._switch(on=True)

    def move(self, device: torch.device) -> None:
        """Hold the terms there. The layers that they stand beside are not ours to move."""
        layers = self._layers.items()
        self._layers = {name: LowRank(one.down.to(device), one.up.to(device)) for name, one in layers}
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

    def _wrap(self, layers: Mapping[str, LowRank]) -> None:
        here = {name[name.index("layers.") :]: name for name, _ in self._decoder.named_modules() if "layers." in name}
        for name, low_rank in layers.items():
            layer = self._adapted.get(name) or (self._decoder.get_submodule(here[name]) if name in here else None)
            shape = (low_rank.down.shape[0], low_rank.up.shape[1])
            if layer is None or _shape(layer) != shape:
                raise ModelError(f"The release does not fit this model: its layer {name} has the shape {shape}.")
        for name in layers:
            if name not in self._adapted:
                self._adapted[name] = Adapted(self._decoder.get_submodule(here[name]))
                self._decoder.set_submodule(here[name], self._adapted[name])


def read_release(folder: Path, like: Tensor) -> Release:
    """Read `adapter/` and `recall.safetensors`. like: whose type and device the adapter takes. Raises ModelError."""
    try:
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text("utf-8"))
        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        recall = load_file(folder / "recall.safetensors")
        scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
        layers = {
            name.removesuffix(_DOWN)[name.index("layers.") :]: LowRank(
                down.T.to(like).contiguous(), (weights[name.replace(_DOWN, _UP)].T * scale).to(like).contiguous()
            )
            for name, down in weights.items()
            if name.endswith(_DOWN)
        }
        return Release(layers, recall["rows"].float(), recall.get("head.weight"), float(recall.get("gain", 1.0)))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"The release {folder.name} is torn or no release; roll back, or train again.") from error


def _shape(layer: nn.Module) -> tuple[int, int]:
    linear = layer.base if isinstance(layer, Adapted) else layer
    weight = linear.weight
    assert isinstance(weight, torch.Tensor), "only linear layers are adapted"
    return (weight.shape[1], weight.shape[0])
