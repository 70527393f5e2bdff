"""Weights as safetensors files: one, or several with an index where they are large, as transformers reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from archlab.storage.files import write_text
from archlab.storage.tensors import write_tensors

MAX_BYTES = 5_000_000_000  # of one file
_METADATA = {"format": "pt"}  # which transformers asks for


def write_weights(folder: Path, tensors: Mapping[str, Tensor], max_bytes: int = MAX_BYTES) -> None:
    """Write model.safetensors, or files of at most the given number of bytes and model.safetensors.index.json."""
    shards = _split(tensors, max_bytes)
    if len(shards) == 1:
        write_tensors(folder / "model.safetensors", tensors, _METADATA)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, shard, _METADATA)
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(map(_size, tensors.values()))}, "weight_map": places}
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _split(tensors: Mapping[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + _size(tensor) > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += _size(tensor)
    return shards


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
