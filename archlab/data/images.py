"""Image files as arrays of one size.

H height, W width, C channels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab.errors import ArchlabError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LEAST_AREA, WIDEST = 0.08, 4 / 3


def require_pixels(context: int, side: int, path: str) -> None:
    """Raise ArchlabError unless the context is the pixels of a square image."""
    if context != side**2:
        pixels = f"{side} x {side} = {side**2} pixels"
        raise ArchlabError(f"{path}: an image has {pixels}, which train.context {context} has to be")


def read_image(path: str, mode: Literal["L", "RGB"]) -> Image:
    """Return an image in grey or in colour; raise ArchlabError naming a file that is damaged or has wider pixels."""
    try:
        from PIL import Image
    except ImportError:
        raise ArchlabError(f"{path}: images are read by Pillow, which is missing: pip install pillow") from None
    try:
        with Image.open(path) as image:
            given = image.mode
            image.load()
            if given[0] not in "IF":
                return image.convert(mode)
    except Exception as error:
        raise ArchlabError(f"{path}: cannot be read as an image: {one_line(error)}") from error
    raise ArchlabError(f"{path}: has pixels of more than 8 bits (mode {given}), which are not supported")


def center_crop(image: Image, size: int, crop: float) -> NDArray[np.uint8]:
    """Return the middle [H, W, C] of an image whose shorter side was made size / crop long, bicubically."""
    side = min(image.size) * crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _resized(image, size, (left, top, left + side, top + side))


def random_crop(image: Image, size: int, random: np.random.RandomState) -> NDArray[np.uint8]:
    """Return a random part of an image, made square [H, W, C], as Inception was trained (arXiv:1409.4842).

    It has 0.08 to 1 of the area and sides of 3:4 to 4:3; where ten draws do not fit, the middle.
    """
    for _ in range(10):
        area = image.width * image.height * random.uniform(LEAST_AREA, 1)
        ratio = math.exp(random.uniform(-math.log(WIDEST), math.log(WIDEST)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = random.randint(image.width - width + 1), random.randint(image.height - height + 1)
            return _resized(image, size, (left, top, left + width, top + height))
    return center_crop(image, size, 1.0)


def _resized(image: Image, size: int, box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    pixels = np.asarray(image.resize((size, size), Resampling.BICUBIC, box=box))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


Inputs: TypeAlias = Literal["words", "numbers"]


GREYS = 256


def greys(pixels_BT: NDArray[np.uint8], inputs: Inputs) -> Tensor:
    """Return pixels as words [B, T] of 256 greys, or as numbers [B, T] from -1 to 1."""
    if inputs == "words":
        return torch.from_numpy(pixels_BT.astype(np.int64))
    return torch.from_numpy(pixels_BT.astype(np.float32)) / 127.5 - 1
