"""B batch, T pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, Count, register
from archlab.components.task._folders import FileTask
from archlab.data.class_folders import require_complete, split_by_hash
from archlab.data.formats import read_lines
from archlab.data.images import GRAY_LEVELS, PixelInputs, encode_gray, read_image, require_pixels
from archlab.data.labeled_files import LabeledFile

from ._samples import Visit

HELD_OUT_FRACTIONS = {"validation": 0.1, "test": 0.1}
CLASSES = ("apart", "connected")


@register("task", "lra_pathfinder")
class LongRangePathfinder(FileTask):
    """Classify by an image's pixels whether a path joins two points, Long Range Arena's Pathfinder (arXiv:2011.04006).

    train.context must be the number of pixels. 1 in 10 images each is validation and test, by the SHA-256 of their
    names. Empty files, of which the published set has one, are skipped.

    Args:
        path: Folder such as pathfinder32/curv_contour_length_14, with images in imgs/ and lists of them in metadata/.
        size: Height and width of the images in pixels: 32 for Pathfinder, 128 for Path-X.
        inputs: `words` for gray levels as tokens [B, T] below 256, `numbers` for values [B, T] in [-1, 1].
    """

    tokens = "gray levels"

    num_classes = 2

    def __init__(self, *, path: str, size: Count = 32, inputs: PixelInputs = "words") -> None:
        self.inputs, self.vocab_size = inputs, GRAY_LEVELS if inputs == "words" else None
        self.path, self.side = path, size

    @cached_property
    def files(self) -> dict[str, list[LabeledFile]]:
        """The images of each split, listed on first use."""
        return _list_images(self.path)

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is the number of pixels of an image."""
        require_pixels(context, self.side, self.path)

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return pixels [B, T] and classes [B], 1 if the points are joined."""
        files = [self.files[split][index] for index in indices]
        pixels_BT = np.stack([self._read(file.path) for file in files])
        return encode_gray(pixels_BT, self.inputs), torch.tensor([file.label for file in files])

    def _read(self, path: str) -> NDArray[np.uint8]:
        image = read_image(path, "L")
        if image.size != (self.side, self.side):
            raise ArchlabError(f"{path}: has {image.width} x {image.height} pixels, not size {self.side}")
        return np.asarray(image).ravel()


def _list_images(path: str) -> dict[str, list[LabeledFile]]:
    root = Path(path).expanduser()
    lists = sorted((root / "metadata").glob("*.npy"))
    if not lists:
        raise ArchlabError(f"{root / 'metadata'}: holds no *.npy lists of images")
    splits = split_by_hash([file for list_ in lists for file in _read_list(root, list_)], HELD_OUT_FRACTIONS)
    require_complete(root, splits, CLASSES)
    return splits


def _read_list(root: Path, list_: Path) -> list[LabeledFile]:
    """Return the images of a list, a text file in spite of its suffix .npy."""
    files = []
    for number, line in enumerate(read_lines(list_), 1):
        fields = line.split()
        if len(fields) < 4 or fields[3] not in ("0", "1"):
            raise ArchlabError(f"{list_}:{number}: {line[:60]!r} is not folder, file, number and class of an image")
        file = root / fields[0] / fields[1]
        if not file.is_file():
            raise ArchlabError(f"{list_}:{number}: there is no file {file}")
        if os.stat(file).st_size:
            files.append(LabeledFile(str(file), f"{fields[0]}/{fields[1]}", int(fields[3])))
    return files
