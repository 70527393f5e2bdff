"""B batch, C channels, H height, W width."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import Count, Range, register
from archlab.components.task._folders import FileTask
from archlab.components.task._samples import Visit
from archlab.data.class_folders import find_split_folders, list_splits
from archlab.data.images import GRAY_LEVELS, SUFFIXES, center_crop, random_crop, read_image, require_pixels
from archlab.data.labeled_files import LabeledFile
from archlab.data.sampling import random_state

HELD_OUT_FRACTION = 0.05
Crop: TypeAlias = Annotated[float, Range(low=0, above=True, high=1)]
Augment: TypeAlias = Literal["none", "crop", "crop_flip"]
Inputs: TypeAlias = Literal["image", "pixels"]


@register("task", "image_folder")
class ImageFolder(FileTask):
    """Classify the images of a folder with one folder per class.

    Where the class folders are in train/, validation/ (valid/, val/, dev/) and test/, these are the splits; a split
    without a folder is 1 in 20 of the train files, held out by the SHA-256 of their names.

    Args:
        path: Folder with one folder per class, or with one folder per split.
        num_classes: Number of classes that the folders must have.
        size: Height and width of the inputs, in pixels.
        num_channels: 1 for gray images, 3 for RGB.
        inputs: `image` for normalized images [B, C, H, W], `pixels` for gray levels in scan order as tokens [B, H * W].
        crop: Fraction of the shorter side that the center crop keeps.
        augment: `none`, `crop` (random crops in training), or `crop_flip` (and horizontal flips).
        mean: Mean of each channel in [0, 1], subtracted from it; null is 0.5.
        std: Standard deviation of each channel, which it is divided by; null is 0.5.
    """

    tokens = "gray levels"

    def __init__(
        self,
        *,
        path: str,
        num_classes: Count,
        size: Count = 224,
        num_channels: Literal[1, 3] = 3,
        inputs: Inputs = "image",
        crop: Crop = 1.0,
        augment: Augment = "none",
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        self.path, self.num_classes, self.image_size, self.num_channels = path, num_classes, size, num_channels
        self.crop, self.augment, self.vocab_size = crop, augment, GRAY_LEVELS if inputs == "pixels" else None
        if inputs == "pixels" and (num_channels == 3 or mean or std):
            raise ValueError("pixels are tokens of gray images: they need num_channels 1, and have no mean or std")
        self.mean, self.std = mean or [0.5] * num_channels, std or [0.5] * num_channels
        if not len(self.mean) == len(self.std) == num_channels or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} (above 0) need {num_channels} numbers each")

    @cached_property
    def files(self) -> dict[str, list[LabeledFile]]:
        """The files of each split, listed on first use."""
        return _list_files(self.path, self.num_classes)

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is the number of pixels of an image."""
        require_pixels(context, self.image_size, self.path)

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return images, or their pixels, and classes [B]."""
        files = [self.files[split][index] for index in indices]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow releases the GIL while it decodes
            images = list(pool.map(self._read, files, visits or [None] * len(files)))
        classes_B = torch.tensor([file.label for file in files])
        pixels_BHWC = torch.from_numpy(np.stack(images))
        return self._to_inputs(pixels_BHWC), classes_B

    def example_inputs(self, batch_size: int, context: int, device: str | torch.device) -> Tensor:
        """Return zeros of the inputs' shape and type."""
        if self.vocab_size:
            return super().example_inputs(batch_size, context, device)
        return torch.zeros(batch_size, self.num_channels, self.image_size, self.image_size, device=device)

    def _read(self, file: LabeledFile, visit: Visit | None) -> NDArray[np.uint8]:
        image = read_image(file.path, "L" if self.num_channels == 1 else "RGB")
        if visit is None or self.augment == "none":
            return center_crop(image, self.image_size, self.crop)
        # Seeded by the visit, not by the thread, so that a batch is a function of its arguments.
        random = random_state(*visit, 1)
        pixels_HWC = random_crop(image, self.image_size, random)
        return pixels_HWC[:, ::-1] if self.augment == "crop_flip" and random.randint(2) else pixels_HWC

    def _to_inputs(self, pixels_BHWC: Tensor) -> Tensor:
        if self.vocab_size:
            return pixels_BHWC.flatten(1).long()
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return ((pixels_BHWC.float() / 255 - mean) / std).movedim(-1, 1).contiguous()


def _list_files(path: str, num_classes: int) -> dict[str, list[LabeledFile]]:
    root = Path(path).expanduser()
    return list_splits(find_split_folders(root), num_classes, HELD_OUT_FRACTION, SUFFIXES)
