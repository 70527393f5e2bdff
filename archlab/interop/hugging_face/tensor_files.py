"""The safetensors files of a checkpoint directory, whole or in shards, described by their headers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, one_line
from archlab.storage.safetensors_header import TensorInfo, read_header

_SINGLE, _INDEX, _ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Buffers that classes of transformers store, or did in older versions; their values follow from the configuration.
_BUFFERS = (
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".attention.bias",
    ".attention.masked_bias",
    ".attn.bias",
    ".attn.masked_bias",
    ".position_ids",
    ".self_attn.slope_rate",
    ".self_attn.query_decay",
    ".self_attn.key_decay",
    ".self_attn.diagonal_decay",
)
# Who wrote a file, where it says so: others name the layouts of libraries whose matrices are transposed.
_LAYOUTS = ("pt", "np", "mlx")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's header and the file that holds it."""

    file: Path
    info: TensorInfo


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a directory by name, from the headers of its files.

    Raises ArchlabError naming the file and the tensor where one is damaged, or two disagree.
    """
    if (folder / _ADAPTER).is_file():
        raise ArchlabError(f"{folder}: holds an adapter ({_ADAPTER}), which is not applied; merge it into the weights")
    weight_map = _read_index(folder / _INDEX) if (folder / _INDEX).is_file() else {}
    shards = sorted(set(weight_map.values()) - {_SINGLE})
    if (folder / _SINGLE).is_file():
        # transformers reads the single file; with shards beside it, the right weights are ambiguous.
        if shards and (folder / shards[0]).is_file():
            raise ArchlabError(f"{folder}: holds {_SINGLE} and the shards of {_INDEX}; remove one of the two")
        return _collect([folder / _SINGLE])
    if not weight_map:
        pickled = any(path for pattern in _PICKLED for path in folder.glob(pattern))
        reason = "; *.bin is pickled, which runs code: convert it to safetensors" if pickled else ""
        raise ArchlabError(f"{folder}: holds no {_SINGLE}{reason}")
    return _check_index(folder / _INDEX, weight_map, _collect([folder / name for name in shards]))


def _read_index(index: Path) -> dict[str, str]:
    """Return the file of each tensor; raise ArchlabError where it is not beside the index."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ArchlabError(f"{index}: is not an index of tensors: it has no weight_map of texts")
    if not (index.parent / _SINGLE).is_file():
        for name in weight_map.values():
            if Path(name).name != name or not (index.parent / name).is_file():
                raise ArchlabError(f"{index}: names {name!r}, which is not a file beside it")
    return weight_map


def _collect(files: list[Path]) -> dict[str, StoredTensor]:
    found: dict[str, StoredTensor] = {}
    for file in files:
        header = read_header(file)
        if header.metadata.get("format", "pt") not in _LAYOUTS:
            raise ArchlabError(f"{file}: has the layout {header.metadata['format']!r}, which is not read")
        for name, info in header.tensors.items():
            if name in found:
                raise ArchlabError(f"{file}: tensor {name!r} is in {found[name].file.name} as well")
            found[name] = StoredTensor(file, info)
    return found


def _check_index(index: Path, weight_map: Mapping[str, str], found: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors of the shards; raise ArchlabError unless they match the index."""
    for name, file in weight_map.items():
        if name not in found or found[name].file.name != file:
            raise ArchlabError(f"{index}: tensor {name!r} is not in {file}")
    for name, tensor in found.items():
        if name not in weight_map:
            raise ArchlabError(f"{index}: lists no tensor {name!r}, which {tensor.file.name} holds")
    return found


def without_buffers(stored: Mapping[str, StoredTensor], expected: Collection[str]) -> dict[str, StoredTensor]:
    """Return the tensors without those that follow from the configuration, unless they are expected."""
    return {name: tensor for name, tensor in stored.items() if name in expected or not name.endswith(_BUFFERS)}


def common_dtype(stored: Mapping[str, StoredTensor]) -> torch.dtype:
    """Return the dtype that holds every floating-point tensor's values."""
    dtypes = [tensor.info.dtype for tensor in stored.values() if tensor.info.dtype.is_floating_point]
    return reduce(torch.promote_types, dtypes) if dtypes else torch.float32


def iter_tensors(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor with its name, one at a time, so that no second copy of the model is held."""
    for file in dict.fromkeys(tensor.file for tensor in stored.values()):
        with _open(file) as tensors:
            for name in [name for name, tensor in stored.items() if tensor.file == file]:
                yield name, tensors.get_tensor(name)


@contextmanager
def _open(file: Path) -> Iterator[Any]:  # safetensors does not export the type
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}") from error
