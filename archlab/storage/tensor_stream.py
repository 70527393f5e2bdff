"""Safetensors files written tensor by tensor, so that only one of them need be in memory, and hashed meanwhile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from archlab.storage.safetensors_header import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8  # of the tensors' bytes in the file


def stream_tensors(
    file: Path,
    described: Mapping[str, Tensor],
    get: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Write a safetensors file of tensors as `described`, which may be on meta; return its size and SHA-256.

    `get` returns each one on the CPU. The format is that of the library, which wants all at once (safetensors 0.8).
    """
    # The widest numbers first, as the library has them, so that every tensor is aligned.
    names = sorted(described, key=lambda name: (-described[name].element_size(), name))
    header = _header(names, described, metadata)
    digest = hashlib.sha256()
    with file.open("xb") as opened:
        for block in (len(header).to_bytes(8, "little"), header):
            digest.update(block)
            opened.write(block)
        for name in names:
            # A view, which is written as it is laid out in memory.
            data: memoryview = get(name).contiguous().reshape(-1).view(torch.uint8).numpy().data
            digest.update(data)
            opened.write(data)
        size = opened.tell()
    return size, digest.hexdigest()


def _header(names: list[str], described: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor, begin = described[name], end
        end = begin + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
