"""The safetensors files of a checkpoint directory, whole or in shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from archlab.errors import ArchlabError, one_line

# Buffers that older versions of transformers stored; their values follow from the configuration.
_BUFFERS = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


def find_tensor_files(folder: Path) -> list[Path]:
    """Return a directory's safetensors files; raise ArchlabError where there are none, or the index names others."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickled = any(folder.glob("*.bin"))
        reason = "; *.bin is pickled, which runs code: convert it to safetensors" if pickled else ""
        raise ArchlabError(f"{folder}: holds no model.safetensors{reason}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchlabError(f"{index}: is no index of tensors: {one_line(error)}") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ArchlabError(f"{index}: names {name!r}, which is no file beside it")
    return [folder / name for name in names]


def iter_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor with its name, one at a time, so that no second copy of the model is held."""
    for file in files:
        with _open(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if not name.endswith(_BUFFERS):
                    yield name, tensors.get_tensor(name)


@contextmanager
def _open(file: Path) -> Iterator[Any]:  # safetensors has no type for what it opens
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}") from error


def first_dtype(files: list[Path]) -> torch.dtype:
    """Return the dtype of the first floating-point tensor."""
    with _open(files[0]) as tensors:
        dtypes = (tensors.get_tensor(name).dtype for name in tensors.keys())  # noqa: SIM118
        return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)
