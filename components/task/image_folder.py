"""B batch, C channels, H height, W width."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, Count, Range, register
from archlab.components.task._folders import FileTask
from archlab.components.task._samples import Visit
from archlab.data.class_folders import Labelled, by_hash, class_files, class_names, require_filled
from archlab.data.images import SUFFIXES, center_crop, random_crop, read_image, require_pixels
from archlab.data.sampling import random_state

SHARE = 0.05
Crop: TypeAlias = Annotated[float, Range(low=0, above=True, high=1)]
Augment: TypeAlias = Literal["none", "crop", "crop_flip"]
Inputs: TypeAlias = Literal["image", "pixels"]


@register("task", "image_folder")
class ImageFolder(FileTask):
    """Tell the images of a folder's folders apart, one for each class.

    Inputs are images [B, C, H, W], (share of white - mean) / std, `size` pixels high and wide: the middle `crop` of an
    image's shorter side. As `pixels` they are its 256 greys in scan order, words [B, H * W]. `augment` learns from
    random parts instead, and from their mirror images. Where the classes stand in train/, validation/ (or val/) and
    test/, these are the splits; a split without a folder is a twentieth of the train files by their names' hash.
    """

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
        self.crop, self.augment, self.vocab_size = crop, augment, 256 if inputs == "pixels" else None
        if inputs == "pixels" and (num_channels == 3 or mean or std):
            raise ValueError("pixels are words of grey images: they need num_channels 1, and have no mean or std")
        self.mean, self.std = mean or [0.5] * num_channels, std or [0.5] * num_channels
        if not len(self.mean) == len(self.std) == num_channels or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} (above 0) need {num_channels} numbers each")

    @property
    def files(self) -> dict[str, list[Labelled]]:
        """The files of each split, listed when first asked for."""
        return _listed(self.path, self.num_classes)

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is the pixels of an image."""
        require_pixels(context, self.image_size, self.path)

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return images, or their pixels, and classes [B]."""
        files = [self.files[split][number] for number in numbers]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding lets other threads run
            images = list(pool.map(self._read, files, visits or [None] * len(files)))
        classes_B = torch.tensor([file.label for file in files])
        pixels_BHWC = torch.from_numpy(np.stack(images))
        return self._inputs(pixels_BHWC), classes_B

    def example_inputs(self, batch_size: int, context: int, device: str | torch.device) -> Tensor:
        """Return inputs of the right shape and type with nothing in them."""
        if self.vocab_size:
            return super().example_inputs(batch_size, context, device)
        return torch.zeros(batch_size, self.num_channels, self.image_size, self.image_size, device=device)

    def _read(self, file: Labelled, visit: Visit | None) -> NDArray[np.uint8]:
        image = read_image(file.path, "L" if self.num_channels == 1 else "RGB")
        if visit is None or self.augment == "none":
            return center_crop(image, self.image_size, self.crop)
        random = random_state(*visit, 1)
        pixels_HWC = random_crop(image, self.image_size, random)
        return pixels_HWC[:, ::-1] if self.augment == "crop_flip" and random.randint(2) else pixels_HWC

    def _inputs(self, pixels_BHWC: Tensor) -> Tensor:
        if self.vocab_size:
            return pixels_BHWC.flatten(1).long()
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return ((pixels_BHWC.float() / 255 - mean) / std).movedim(-1, 1).contiguous()


@cache
def _listed(path: str, num_classes: int) -> dict[str, list[Labelled]]:
    root = Path(path).expanduser()
    folders = {split: root / name for split, name in (_named(root) or {"train": ""}).items()}
    return split_folders(folders, num_classes, SHARE)


def _named(root: Path) -> dict[str, str]:
    """Return the folders that are named like splits."""
    names = {"train": ["train"], "validation": ["validation", "val"], "test": ["test"]}
    found = [(split, name) for split, known in names.items() for name in known if (root / name).is_dir()]
    if len(found) > len(dict(found)) or (found and found[0][0] != "train"):
        raise ArchlabError(f"{root}: needs a folder train beside, and one of validation and val")
    return dict(found)


def split_folders(folders: Mapping[str, Path], num_classes: int, share: float) -> dict[str, list[Labelled]]:
    """List the files of every split; one that has no folder is a share of the train files.

    Raises ArchlabError naming a folder whose classes are not those of train, or not as many as were said.
    """
    classes = class_names(folders["train"])
    if len(classes) != num_classes:
        raise ArchlabError(f"{folders['train']}: holds {len(classes)} classes, not num_classes {num_classes}")
    for folder in folders.values():
        odd = sorted(set(class_names(folder)) ^ set(classes))
        if odd:
            raise ArchlabError(f"{folder}: its classes are not those of {folders['train']}: {odd[0]!r}")
    shares = {split: share for split in ("validation", "test") if split not in folders}
    parts = by_hash(class_files(folders["train"], classes, SUFFIXES), shares)
    parts |= {split: class_files(folders[split], classes, SUFFIXES) for split in folders if split != "train"}
    require_filled(folders["train"], parts, classes)
    return parts
