from __future__ import annotations

from functools import cache
from pathlib import Path

from archlab import Count, register
from archlab.data.class_folders import Labelled

from .image_folder import Augment, Crop, ImageFolder, split_folders

SHARE = 0.01
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@register("task", "imagenet")
class ImageNet(ImageFolder):
    """Tell the 1000 classes of ImageNet apart (arXiv:1409.0575), from a folder with train/ and val/ by synset.

    Inputs are images [B, 3, H, W], each channel less its mean and over its deviation; see image_folder.
    The 50,000 published validation images, val/, are the test split, so that nothing is chosen by them; the validation
    split is one in a hundred of the training images, which training does not see.
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

    @property
    def files(self) -> dict[str, list[Labelled]]:
        """The files of each split, listed when first asked for."""
        return _listed(self.path, self.num_classes)


@cache
def _listed(path: str, num_classes: int) -> dict[str, list[Labelled]]:
    root = Path(path).expanduser()
    return split_folders({"train": root / "train", "test": root / "val"}, num_classes, SHARE)
