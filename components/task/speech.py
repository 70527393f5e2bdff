"""B batch, T samples of a waveform."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archlab import ArchlabError, Count, register
from archlab.components.task._folders import FileTask
from archlab.data.audio import read_wav
from archlab.data.class_folders import list_files, require_complete, require_train_names
from archlab.data.formats import read_lines
from archlab.data.labeled_files import LabeledFile
from archlab.data.splits import SPLITS, Overflow

from ._samples import Visit

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# The constants of which_set(), by which the data set's authors made the lists.
HELD_OUT_PERCENT = 10.0  # for validation and for test each
BUCKETS = 2**27


@register("task", "speech")
class Speech(FileTask):
    """Classify spoken words by their waveforms, WAV files in one folder per word (Speech Commands, arXiv:1804.03209).

    Inputs are waveforms [B, T] in [-1, 1), padded at the end with zeros. validation_list.txt and testing_list.txt name
    the files that are held out; without them 1 in 10 speakers each is, by the hash that the data set's authors use.

    Args:
        path: Folder with one folder of WAV files, 16-bit and mono, per word.
        classes: Names of the folders that are the classes, in order; the others are ignored.
        sample_rate: Sample rate in Hz that all files must have.
        too_long: `refuse` raises an error for a file with more samples than train.context, `cut` truncates it.
    """

    def __init__(
        self, *, path: str, classes: list[str], sample_rate: Count = 16000, too_long: Overflow = "refuse"
    ) -> None:
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ValueError(f"classes {classes}: need two or more, none of them twice")
        self.path, self.classes, self.num_classes = path, tuple(classes), len(classes)
        self.sample_rate, self.too_long = sample_rate, too_long

    @cached_property
    def files(self) -> dict[str, list[LabeledFile]]:
        """The files of each split, listed on first use."""
        return _list_recordings(self.path, self.classes)

    def describe(self) -> dict[str, Any]:
        """Return the files as data, with the names of the classes."""
        return {**super().describe(), "classes": list(self.classes)}

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return waveforms [B, T] and classes [B]."""
        files = [self.files[split][index] for index in indices]
        waves = [read_wav(file.path, self.sample_rate, context, self.too_long) for file in files]
        return torch.from_numpy(np.stack(waves)), torch.tensor([file.label for file in files])


def _list_recordings(path: str, classes: tuple[str, ...]) -> dict[str, list[LabeledFile]]:
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ArchlabError(f"{path}: no such folder")
    files = list_files(root, classes, [".wav"])
    split_of = _read_lists(root) or {file.name: _split_by_speaker(file.name) for file in files}
    splits: dict[str, list[LabeledFile]] = {split: [] for split in SPLITS}
    for file in files:
        splits[split_of.get(file.name, "train")].append(file)
    require_train_names(root, splits["train"])
    require_complete(root, splits, classes)
    return splits


def _read_lists(root: Path) -> dict[str, str]:
    """Return the split of the files that the lists hold out; empty if there are no lists."""
    held_out: dict[str, str] = {}
    if not any((root / name).exists() for name in LISTS.values()):
        return held_out
    for split, name in LISTS.items():
        for number, line in enumerate(read_lines(root / name), 1):
            place = f"{root / name}: lists {line!r}"
            # The published lists name files of all words, also of those that are not among the classes.
            if line and not _is_recording(root, line):
                raise ArchlabError(
                    f"{place}, which is not a file (line {number}); a line is a word's folder, / and a file in it"
                )
            if line and line in held_out:
                raise ArchlabError(f"{place}, which is listed before (line {number})")
            held_out[line] = split
    return held_out


def _is_recording(root: Path, line: str) -> bool:
    # As written: a line such as ./yes/a.wav would hold out nothing, since files are named yes/a.wav.
    parts = line.split("/")
    return len(parts) == 2 and not {"", ".", ".."} & set(parts) and (root / line).is_file()


def _split_by_speaker(name: str) -> str:
    """Return the split of a file by its speaker, the part of its name before _nohash_."""
    speaker = re.sub(r"_nohash_.*$", "", name.partition("/")[2])
    percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % BUCKETS * (100 / (BUCKETS - 1))
    held_out = "validation" if percent < HELD_OUT_PERCENT else "test"
    return held_out if percent < 2 * HELD_OUT_PERCENT else "train"
