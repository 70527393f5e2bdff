"""Files with a class label, and a checksum that detects changes since a run began."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archlab.data.compressed import read_bytes

_MAX_READ = 4096  # files of each split whose content is hashed; ImageNet has 1.3 million


@dataclass(frozen=True)
class LabeledFile:
    """A file, its name relative to the root of the class folders, the index of its class, and whether it is a link."""

    path: str
    name: str
    label: int
    is_link: bool = False


def hash_files(splits: Mapping[str, Sequence[LabeledFile]]) -> str:
    """Return the SHA-256 of the split, name, class and size of every file, and of the content of 4,096 a split."""
    digest = hashlib.sha256()
    for split, files in splits.items():
        # Evenly spread over the classes, by which files are sorted.
        every = -(-len(files) // _MAX_READ)
        for index, file in enumerate(files):
            digest.update(os.fsencode(f"{split}/{file.name}\0{file.label} {os.path.getsize(file.path)}\0"))
            if index % every == 0:
                digest.update(hashlib.sha256(read_bytes(Path(file.path))).digest())
    return digest.hexdigest()
