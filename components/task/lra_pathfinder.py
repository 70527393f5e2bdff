"""B batch, T pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, Count, register
from archlab.components.task._folders import FileTask
from archlab.data.class_folders import Labelled, by_hash, require_filled
from archlab.data.formats import read_file
from archlab.data.images import GREYS, Inputs, greys, read_image, require_pixels

from ._samples import Visit

SHARES = {"validation": 0.1, "test": 0.1}
CLASSES = ("apart", "connected")


@register("task", "lra_pathfinder")
class LongRangePathfinder(FileTask):
    """Tell whether a path joins two points by an image's pixels, Long Range Arena's Pathfinder (arXiv:2011.04006).

    `path` is a folder such as pathfinder32/curv_contour_length_14, with images below imgs/ and lines of text in
    metadata/: folder, file, number and class of an image. Images are `size` pixels high and wide (128: Path-X), and
    train.context is all of them. A tenth each, by their names' hash, is validation and test. Inputs are words [B, T]
    below 256, or numbers [B, T] from -1 to 1. Files of no bytes, of which the published set has one, are passed over.
    """

    num_classes = 2

    def __init__(self, *, path: str, size: Count = 32, inputs: Inputs = "words") -> None:
        self.inputs, self.vocab_size = inputs, GREYS if inputs == "words" else None
        self.path, self.side = path, size

    @property
    def files(self) -> dict[str, list[Labelled]]:
        """The images of each split, listed when first asked for."""
        return _listed(self.path)

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is the pixels of an image."""
        require_pixels(context, self.side, self.path)

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return pixels [B, T] and classes [B], 1 where the points are joined."""
        files = [self.files[split][number] for number in numbers]
        pixels_BT = np.stack([self._read(file.path) for file in files])
        return greys(pixels_BT, self.inputs), torch.tensor([file.label for file in files])

    def _read(self, path: str) -> NDArray[np.uint8]:
        image = read_image(path, "L")
        if image.size != (self.side, self.side):
            raise ArchlabError(f"{path}: has {image.width} x {image.height} pixels, not size {self.side}")
        return np.asarray(image).ravel()


@cache
def _listed(path: str) -> dict[str, list[Labelled]]:
    root = Path(path).expanduser()
    lists = sorted((root / "metadata").glob("*.npy"))
    if not lists:
        raise ArchlabError(f"{root / 'metadata'}: holds no *.npy lists of images")
    parts = by_hash([file for list_ in lists for file in _images(root, list_)], SHARES)
    require_filled(root, parts, CLASSES)
    return parts


def _images(root: Path, list_: Path) -> list[Labelled]:
    """Return the images of a list; it is text, whatever its name ends in."""
    found = []
    for number, line in enumerate(read_file(list_).decode(errors="replace").splitlines(), 1):
        fields = line.split()
        if len(fields) < 4 or fields[3] not in ("0", "1"):
            raise ArchlabError(f"{list_}:{number}: {line[:60]!r} is not folder, file, number and class of an image")
        file = root / fields[0] / fields[1]
        if not file.is_file():
            raise ArchlabError(f"{list_}:{number}: there is no file {file}")
        if os.stat(file).st_size:
            found.append(Labelled(str(file), f"{fields[0]}/{fields[1]}", int(fields[3])))
    return found
