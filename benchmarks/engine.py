"""Decode, next turn and interruption (the first four rows of docs/benchmarks.md), side by side in one run.

    python -m benchmarks.engine [--rounds 3] [--tokens 128] [--gguf FILE]

Against `transformers.generate` in bfloat16 on the same weights and threads, and, given the model's GGUF file and
`pip install '.[bench]'`, against llama.cpp for the record. Rounds alternate between them, since machines drift; what
is printed are medians, and ratios of figures of the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from qqmem.engine import bench, catalog
from qqmem.engine.model import load_model
from qqmem.engine.worker import Engine

MODEL = "qwen2.5-coder-0.5b"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--gguf", type=Path, help="the model's GGUF file, to measure llama.cpp too")
    options = parser.parse_args()
    folder = catalog.pull(MODEL, lambda *_: None)
    print(f"{date.today()}, {cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    asyncio.run(compare(folder, options.rounds, options.tokens, options.gguf))


def cpu_name() -> str:
    """As Linux calls it."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


async def compare(folder: Path, rounds: int, tokens: int, gguf: Path | None) -> None:
    """The first row against generate (and llama.cpp), then what the engine measures of itself.

    The others run on the engine's thread, between its steps: a second thread that computes would bring a second
    OpenMP team, and two teams on the same cores slow each other even when one of them rests.
    """
    async with Engine(lambda: load_model(folder)) as engine:
        tokenizer = (await engine.ready()).tokenizer
        ids = bench.prompt(tokenizer, bench.TOPICS[0])
        generate = await engine.call(lambda _: load_generate(folder))
        llama = await engine.call(lambda _: load_llama(gguf) if gguf else None)
        rows: dict[str, list[float]] = {"generate": [], "one": [], "four": [], "llama.cpp": []}
        for _ in range(rounds):
            rows["generate"].append(await engine.call(lambda _: generate_rate(generate, ids, tokens)))
            rows["one"].append(await bench.decode_rate(engine, tokenizer, 1, tokens))
            rows["four"].append(await bench.decode_rate(engine, tokenizer, 4, tokens))
            if llama:
                rows["llama.cpp"].append(await engine.call(lambda _: llama(list(ids), tokens)))
        report(rows)
        async for figure in bench.measure(engine, tokens=tokens):
            print(f"  {figure.name:58} {figure.value:9.1f} {figure.unit}")


def report(rows: dict[str, list[float]]) -> None:
    """Medians, and the median of the ratios within rounds."""
    print("decode, tokens/s (median of rounds)")
    for name, rates in rows.items():
        if rates:
            print(f"  {name:58} {statistics.median(rates):9.1f}   rounds: {' '.join(f'{rate:.1f}' for rate in rates)}")
    print(f"  {'one conversation against generate':58} {ratio(rows['one'], rows['generate']):9.2f} x   (promised 2.5)")
    print(f"  {'four at once against one':58} {ratio(rows['four'], rows['one']):9.2f} x   (promised 3)")


def ratio(a: list[float], b: list[float]) -> float:
    """Median over rounds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def load_generate(folder: Path) -> PreTrainedModel:
    """The same weights, as transformers runs them."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    return model


def generate_rate(model: PreTrainedModel, ids: tuple[int, ...], tokens: int) -> float:
    """Tokens a second of decoding: the time of all tokens less that of the first, which reads the prompt."""

    def seconds(n: int) -> float:
        start = time.perf_counter()
        cast(Any, model).generate(torch.tensor([ids]), max_new_tokens=n, min_new_tokens=n, do_sample=False)
        return time.perf_counter() - start

    return (tokens - 1) / (seconds(tokens) - seconds(1))


def load_llama(gguf: Path) -> Callable[[list[int], int], float]:
    """llama.cpp on the Q4_K_M file, with as many threads."""
    from llama_cpp import Llama  # an extra of its own, compiled at install

    llama: Any = Llama(str(gguf), n_ctx=2048, n_threads=torch.get_num_threads(), verbose=False)

    def rate(ids: list[int], tokens: int) -> float:
        llama.reset()
        times = []
        for _ in llama.generate(ids, temp=0.0):
            times.append(time.perf_counter())
            if len(times) == tokens:
                break
        return (tokens - 1) / (times[-1] - times[0])

    return rate


if __name__ == "__main__":
    main()
