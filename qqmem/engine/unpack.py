"""The programs that the catalog runs in child processes: unpack a GGUF, download a snapshot of the hub.

python -m qqmem.engine.unpack gguf FILE FOLDER
python -m qqmem.engine.unpack snapshot HUB_ID CACHE
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path


def unpack(file: str, folder: str) -> None:
    """Write the model in a GGUF file as safetensors in bf16, with its tokenizer."""
    # Seconds to import, and only the child process needs them.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, name = os.path.split(file)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # Published as one matrix, quantised twice: the head's copy is the finer one (Q8_0).
    model.set_input_embeddings(model.lm_head)
    model.config.tie_word_embeddings = True
    model.generation_config.eos_token_id = [151645, 151643]
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    _drop_dummies(Path(folder, "tokenizer.json"))


def _drop_dummies(path: Path) -> None:
    """Remove the names that a GGUF gives to the unused rows of the matrix: new tokens belong there."""
    data = json.loads(path.read_text("utf-8"))
    vocabulary = data["model"]["vocab"]
    data["model"]["vocab"] = {token: row for token, row in vocabulary.items() if token != f"[PAD{row}]"}
    path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")


def snapshot(repo: str, cache: str) -> None:
    """Download a model of the hub into a cache of the hub client's own form."""
    from huggingface_hub import snapshot_download  # Takes a third of a second, and only the child process needs it.

    patterns = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
    snapshot_download(repo, cache_dir=cache, allow_patterns=patterns)


def _end_with_parent() -> None:
    """End this process when its input does: a killed parent must not leave gigabytes of work behind."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    {"gguf": unpack, "snapshot": snapshot}[sys.argv[1]](*sys.argv[2:])
