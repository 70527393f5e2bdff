from __future__ import annotations

from functools import cached_property
from pathlib import Path

from archlab import Count, register
from archlab.data.class_folders import list_splits
from archlab.data.images import SUFFIXES
from archlab.data.labeled_files import LabeledFile

from .image_folder import Augment, Crop, ImageFolder

VALIDATION_FRACTION = 0.01
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet's RGB channels, the usual constants


@register("task", "imagenet")
class ImageNet(ImageFolder):
    """Classify the images of ImageNet (arXiv:1409.0575), from a folder with train/ and val/ by synset.

    Inputs are images [B, 3, H, W], each channel normalized by its mean and standard deviation. The 50,000 published
    validation images, val/, are the test split, so that no model is chosen by them; the validation split is 1 in 100
    of the training images, held out by the SHA-256 of their names.

    Args:
        path: Folder with train/ and val/, which hold one folder per class.
        num_classes: Number of classes that the folders must have.
        size: Height and width of the inputs, in pixels.
        crop: Fraction of the shorter side that the center crop keeps.
        augment: `none`, `crop` (random crops in training), or `crop_flip` (and horizontal flips).
    """

    def __init__(
        self,
        *,
        path: str,
        num_classes: Count = 1000,
        size: Count = 224,
        crop: Crop = 0.875,
        augment: Augment = "crop_flip",
    ) -> None:
        super().__init__(path=path, num_classes=num_classes, size=size, crop=crop, augment=augment, mean=MEAN, std=STD)

    @cached_property
    def files(self) -> dict[str, list[LabeledFile]]:
        """The files of each split, listed on first use."""
        return _list_files(self.path, self.num_classes)


def _list_files(path: str, num_classes: int) -> dict[str, list[LabeledFile]]:
    root = Path(path).expanduser()
    return list_splits({"train": root / "train", "test": root / "val"}, num_classes, VALIDATION_FRACTION, SUFFIXES)
