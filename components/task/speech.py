"""B batch, T samples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archlab import ArchlabError, Count, register
from archlab.components.task._folders import FileTask
from archlab.data.audio import read_wave
from archlab.data.class_folders import Labelled, class_files, require_filled
from archlab.data.splits import SPLITS, Overflow

from ._samples import Visit

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
SHARE = 10.0  # percent, each for validation and for test
BUCKETS = 2**27


@register("task", "speech")
class Speech(FileTask):
    """Tell spoken words apart by their waves, a folder of WAV files for each, as Speech Commands (arXiv:1804.03209).

    Inputs are waves [B, T] from -1 to 1. Files are 16-bit, of one channel, `sample_rate` samples a second; shorter
    ones are followed by silence, and longer ones refused or cut. validation_list.txt and testing_list.txt say what is
    held out; without them a tenth of the speakers each, by the hash that the data set's authors use.
    """

    def __init__(
        self, *, path: str, classes: list[str], sample_rate: Count = 16000, too_long: Overflow = "refuse"
    ) -> None:
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ValueError(f"classes {classes}: need two or more, none of them twice")
        self.path, self.classes, self.num_classes = path, tuple(classes), len(classes)
        self.sample_rate, self.too_long = sample_rate, too_long

    @property
    def files(self) -> dict[str, list[Labelled]]:
        """The files of each split, listed when first asked for."""
        return _listed(self.path, self.classes)

    def describe(self) -> dict[str, Any]:
        """Return the files as data, and what the classes are."""
        return {**super().describe(), "classes": list(self.classes)}

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return waves [B, T] and classes [B]."""
        files = [self.files[split][number] for number in numbers]
        waves = [read_wave(file.path, self.sample_rate, context, self.too_long) for file in files]
        return torch.from_numpy(np.stack(waves)), torch.tensor([file.label for file in files])


@cache
def _listed(path: str, classes: tuple[str, ...]) -> dict[str, list[Labelled]]:
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ArchlabError(f"{path}: no such folder")
    files = class_files(root, classes, [".wav"])
    split_of = _read_lists(root, files, classes) or {file.name: _hashed(file.name) for file in files}
    parts: dict[str, list[Labelled]] = {split: [] for split in SPLITS}
    for file in files:
        parts[split_of.get(file.name, "train")].append(file)
    require_filled(root, parts, classes)
    return parts


def _read_lists(root: Path, files: Sequence[Labelled], classes: Sequence[str]) -> dict[str, str]:
    """Return the split of the files that lists hold out, or nothing where there are no lists."""
    held_out: dict[str, str] = {}
    if not any((root / name).exists() for name in LISTS.values()):
        return held_out
    known = {file.name for file in files}
    for split, name in LISTS.items():
        for line in _lines(root / name):
            if line.partition("/")[0] in classes and line not in known:
                raise ArchlabError(f"{root / name}: lists {line!r}, which is no file")
            if line in held_out:
                raise ArchlabError(f"{root / name}: lists {line!r}, which is listed before")
            held_out[line] = split
    return held_out


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise ArchlabError(f"{file}: cannot be read: {error}") from error


def _hashed(name: str) -> str:
    """Return the split of a file by its speaker, whose name stands before _nohash_."""
    speaker = re.sub(r"_nohash_.*$", "", name.partition("/")[2])
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % BUCKETS * (100 / (BUCKETS - 1))
    return "validation" if percent < SHARE else "test" if percent < 2 * SHARE else "train"
