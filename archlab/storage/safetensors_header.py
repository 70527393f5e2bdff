"""The header of a safetensors file, checked before a tensor is read.

The library's errors name no tensor, and it keeps the last of two tensors of one name. So the header is read here: 8
bytes that hold its length, then JSON with dtype, shape and place of each tensor in the bytes after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from archlab.config.strict_json import parse_object
from archlab.errors import ArchlabError, one_line

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000  # the library's own limit
_MAX_SIZE = 2**40  # of an axis: an empty tensor may claim any, and torch multiplies them in 64 bits
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class TensorInfo:
    """Dtype and shape of a stored tensor, and its place in the bytes after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """The tensors of a safetensors file, and its metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(file: Path) -> Header:
    """Read and check a file's header; raise ArchlabError naming the file, and the tensor that is wrong."""
    if not file.is_file():
        raise ArchlabError(f"{file}: no such file")
    try:
        text, size = _read(file)
        entries = parse_object(text)
        metadata = entries.pop(_METADATA, None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ArchlabError(f"its {_METADATA} is not a mapping of texts")
        tensors = {name: _info(name, entry) for name, entry in entries.items()}
        _check_places(tensors, size)
    except (OSError, ValueError, ArchlabError) as error:
        raise ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}") from error
    return Header(tensors, metadata)


def _read(file: Path) -> tuple[bytes, int]:
    """Return the header and the number of bytes after it."""
    with file.open("rb") as opened:
        length, size = int.from_bytes(opened.read(_LENGTH_BYTES), "little"), file.stat().st_size
        rest = size - _LENGTH_BYTES - length
        if rest < 0 or length > _MAX_HEADER:
            raise ArchlabError(f"a header of {length:,} bytes in a file of {size:,}")
        return opened.read(length), rest


def _info(name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise ArchlabError(f"tensor {name!r} has no dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ArchlabError(f"tensor {name!r} has dtype {entry['dtype']!r}, which is not one of {', '.join(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or max(shape, default=0) > _MAX_SIZE:
        raise ArchlabError(f"tensor {name!r} has shape {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ArchlabError(f"tensor {name!r} has data_offsets {offsets!r}")
    info = TensorInfo(DTYPES[entry["dtype"]], tuple(shape), *offsets)
    needed = math.prod(shape) * info.dtype.itemsize
    if info.end - info.begin != needed:
        raise ArchlabError(f"tensor {name!r} has {info.end - info.begin:,} bytes and needs {needed:,} for {shape}")
    return info


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_places(tensors: Mapping[str, TensorInfo], size: int) -> None:
    """Raise ArchlabError unless the tensors fill the bytes after the header, each its own."""
    end, last = 0, ""
    for name, info in sorted(tensors.items(), key=lambda entry: (entry[1].begin, entry[1].end)):
        if info.begin != end:
            what = f"overlaps {last!r}" if info.begin < end else "leaves a gap before it"
            raise ArchlabError(f"tensor {name!r} begins at byte {info.begin:,}, not {end:,}: it {what}")
        end, last = info.end, name
    if end != size:
        raise ArchlabError(f"{size:,} bytes of tensors, where the header describes {end:,}")
