"""The tensors of a checkpoint's safetensors files, whole or in parts, read as they are asked for and no further.

A checkpoint of ranks that divide the tensors has a file of each rank's parts; its header has for each part the shape
of the whole tensor and where in it the part begins. torch's own distributed checkpoints (DCP) are not used, since
their planners exchange pickled objects, their safetensors neither hold the shape of a whole tensor nor detect a missing
part of it, and tensors that are divided without DTensor, as along the axis `tensor`, are taken for copies of one
another (torch 2.13).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from archlab.config.strict_json import parse_object, read_object
from archlab.errors import ArchlabError, one_line
from archlab.parallel.parts import Part
from archlab.storage.safetensors_header import read_header
from archlab.storage.tensor_stream import stream_tensors

MODEL, OPTIMIZER = "model", "optimizer"
WEIGHT_INDEX = f"{MODEL}.safetensors.index.json"
_PARTS = "archlab_parts"
_PART_FILE = re.compile(r"(model|optimizer)-part-(\d{5})-of-(\d{5})\.safetensors")


def part_file(kind: str, index: int, count: int) -> str:
    """Return the name of the file that one of the given number of ranks writes of `MODEL` or `OPTIMIZER`."""
    return f"{kind}-part-{index + 1:05d}-of-{count:05d}.safetensors"


def is_part_file(name: str, kind: str | None = None) -> bool:
    """Return whether a file has the name of one of parts, of `MODEL` or `OPTIMIZER` or of either."""
    match = _PART_FILE.fullmatch(name)
    return match is not None and kind in (None, match[1])


def tensor_files(folder: Path, kind: str) -> list[Path]:
    """Return the files of a checkpoint's tensors: one, those that an index names, or those of all ranks' parts."""
    whole, index = folder / f"{kind}.safetensors", folder / f"{kind}.safetensors.index.json"
    if index.is_file():
        return _index_files(index)
    found = [match for file in folder.glob(f"{kind}-part-*") if (match := _PART_FILE.fullmatch(file.name))]
    if whole.is_file() or not found:
        return [whole]
    count = int(found[0][3])
    return [folder / part_file(kind, rank, count) for rank in range(count)]


def has_weights(folder: Path) -> bool:
    """Return whether a directory holds a model's tensors, whole or in parts."""
    return any(file.is_file() for file in tensor_files(folder, MODEL))


def _index_files(index: Path) -> list[Path]:
    places = read_object(index, "an index of weights").get("weight_map")
    if not isinstance(places, dict):
        raise ArchlabError(f"{index}: has no weight_map")
    for name in places.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ArchlabError(f"{index}: names {name!r}, which is not a file beside it")
    return [index.parent / name for name in sorted(set(places.values()))]


def part_metadata(parts: Mapping[str, Part]) -> dict[str, str]:
    """Return the metadata of a file of parts."""
    return {_PARTS: json.dumps({name: {"shape": part.shape, "begin": part.begin} for name, part in parts.items()})}


def rename_metadata(metadata: Mapping[str, str], rename: Callable[[str], str]) -> dict[str, str]:
    """Return a file's metadata with its tensors renamed."""
    if _PARTS not in metadata:
        return dict(metadata)
    renamed = {rename(name): place for name, place in json.loads(metadata[_PARTS]).items()}
    return {**metadata, _PARTS: json.dumps(renamed)}


@dataclass(frozen=True)
class _Stored:
    """A part in a file."""

    file: Path
    part: Part
    dtype: torch.dtype


class StoredTensors(Mapping[str, Tensor]):
    """A checkpoint's tensors by name: each is read, and put together of its parts, when it is asked for.

    The files are mapped from the beginning, so that all tensors are of one version. Raises ArchlabError naming the
    file that is missing or damaged, or the tensor of which a part is missing.
    """

    def __init__(self, folder: Path, kind: str = MODEL) -> None:
        self.files = tensor_files(folder, kind)
        self.source = self.files[0] if len(self.files) == 1 else folder
        self._places: dict[str, list[_Stored]] = {}
        for file in self.files:
            for name, stored in _read_places(file):
                self._places.setdefault(name, []).append(stored)
        for name, places in self._places.items():
            _require_complete(name, places, self.source)
        self._open = {file: _map(file) for file in self.files}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def meta_tensors(self) -> dict[str, Tensor]:
        """Return dtype and shape of each tensor, on the meta device."""
        return {
            name: torch.empty(places[0].part.shape, dtype=places[0].dtype, device="meta")
            for name, places in self._places.items()
        }

    def read(self, name: str, wanted: Part | None = None) -> Tensor:
        """Return a tensor or a part of it, in memory of its own."""
        places = self._places[name]
        shape = places[0].part.shape
        wanted = wanted or Part(shape, (0,) * len(shape), shape)
        read = torch.empty(wanted.size, dtype=places[0].dtype)
        for stored in places:
            shared = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(wanted.spans, stored.part.spans, strict=True)]
            if all(begin < end for begin, end in shared):
                place = _slices(shared, stored.part)
                read[_slices(shared, wanted)] = self._slice(stored.file, name, place)
        return read

    def _slice(self, file: Path, name: str, place: tuple[slice, ...]) -> Tensor:
        try:
            tensor: Tensor = self._open[file].get_slice(name)[place] if place else self._open[file].get_tensor(name)
            return tensor
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise _unreadable(file, error) from error

    def write_whole(self, file: Path) -> None:
        """Write all tensors to one safetensors file, of which one at a time is in memory."""
        stream_tensors(file, self.meta_tensors(), self.read)


def _slices(spans: Sequence[tuple[int, int]], part: Part) -> tuple[slice, ...]:
    """Return where spans of a whole tensor are in a part of it."""
    return tuple(slice(begin - first, end - first) for (begin, end), first in zip(spans, part.begin, strict=True))


def _map(file: Path) -> Any:  # safetensors does not export the type
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ArchlabError:
    return ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}")


def _read_places(file: Path) -> Iterator[tuple[str, _Stored]]:
    header = read_header(file)
    places = _places_of(header.metadata, file) if is_part_file(file.name) else {}
    for name, info in header.tensors.items():
        shape, begin = places.get(name) or (info.shape, (0,) * len(info.shape))
        if len(shape) != len(info.shape) or len(begin) != len(info.shape):
            raise ArchlabError(f"{file}: {name!r} of shape {list(info.shape)} is not a part of {list(shape)}")
        yield name, _Stored(file, Part(shape, begin, info.shape), info.dtype)


def _places_of(metadata: Mapping[str, str], file: Path) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    try:
        entries = parse_object(metadata[_PARTS].encode())
        return {name: (_counts(entry["shape"]), _counts(entry["begin"])) for name, entry in entries.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ArchlabError(f"{file}: does not say which parts of tensors it holds") from error


def _counts(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**40 for value in values):
        raise ValueError("no counts")
    return tuple(values)


def _require_complete(name: str, places: Sequence[_Stored], source: Path) -> None:
    """Raise ArchlabError unless parts make up a whole tensor: they are the cells of a grid over it, each once."""
    first, parts = places[0], [stored.part for stored in places]
    if any(stored.dtype != first.dtype or stored.part.shape != first.part.shape for stored in places):
        raise ArchlabError(f"{source}: the parts of {name!r} are of tensors of two kinds")
    boxes = [part.spans for part in parts]
    axes = [sorted(set(spans)) for spans in zip(*boxes, strict=True)]
    are_joined = all(
        [begin for begin, _ in cells] + [size] == [0] + [end for _, end in cells]
        for cells, size in zip(axes, first.part.shape, strict=True)
    )
    if not are_joined or len(boxes) != prod(map(len, axes)) or set(boxes) != set(product(*axes)):
        has = sum(prod(part.size) for part in parts)
        problem = f"{has:,} of the {prod(first.part.shape):,} numbers of {name!r}, or some of them twice"
        raise ArchlabError(f"{source}: its parts hold {problem}")
