"""Image files as arrays of one size.

B batch, T pixels, H height, W width, C channels.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab.errors import ArchlabError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
GRAY_LEVELS = 256
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_DEEP = re.compile(r";16[BLN]\b")  # a raw mode of Pillow, such as RGB;16B
_MAX_PIXELS = 2**26  # an image of a few kilobytes may unpack to gigabytes
MIN_AREA, MAX_ASPECT = 0.08, 4 / 3  # of Inception's crops, arXiv:1409.4842, section 6
MAX_DRAWS = 10  # of a crop that fits, as torchvision's RandomResizedCrop draws

PixelInputs: TypeAlias = Literal["words", "numbers"]


def require_pixels(context: int, side: int, path: str) -> None:
    """Raise ArchlabError unless the context is the number of pixels of a square image."""
    if context != side**2:
        pixels = f"{side} x {side} = {side**2} pixels"
        raise ArchlabError(f"{path}: an image has {pixels}, which train.context {context} has to be")


def read_image(path: str, mode: Literal["L", "RGB"]) -> Image:
    """Read an image as gray (L) or RGB, turned as its camera says.

    Raises ArchlabError naming a file that is damaged, too large, animated, or has wider pixels.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ArchlabError(f"{path}: images are read by Pillow, which is missing: pip install pillow") from None
    try:
        # The formats of SUFFIXES alone: Pillow starts Ghostscript for others, whatever a file's name is.
        with Image.open(path, formats=_FORMATS) as image:
            problem = _unsupported_property(image)
            if problem is None:
                image.load()
                return _turn(image).convert(mode)
    # Pillow's plugins raise errors of many types for damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        raise ArchlabError(f"{path}: cannot be read as an image: {one_line(error)}") from error
    raise ArchlabError(f"{path}: {problem}, which is not supported")


def _turn(image: Image) -> Image:
    """Return an image upright, as its camera noted."""
    from PIL.Image import Transpose

    # Not ImageOps.exif_transpose, which writes the other notes again and fails where they are damaged.
    orientation = image.getexif().get(0x0112)
    names = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    turns = dict(enumerate(names, 2))
    return image.transpose(Transpose[turns[orientation]]) if orientation in turns else image


def _unsupported_property(image: Image) -> str | None:
    """Return the property of an image that would be read only in part, or None."""
    # Pillow clips the 16- and 32-bit modes (I, I;16, F) to 8 bits without a warning, and cuts colors of 16 bits.
    if image.mode[0] in "IF" or _DEEP.search(str(getattr(image, "tile", ""))):
        return f"has pixels of more than 8 bits (mode {image.mode})"
    # Photographs with a small copy of themselves, which cameras write as a second frame, are of the format MPO.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        return f"is animated, with {frames} frames"
    if image.width * image.height > _MAX_PIXELS:
        return f"has {image.width} x {image.height} pixels, more than {_MAX_PIXELS:,}"
    return None


def center_crop(image: Image, size: int, crop: float) -> NDArray[np.uint8]:
    """Return the center [H, W, C] of an image resized so that the shorter side is size / crop, bicubically."""
    side = min(image.size) * crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _resize(image, size, (left, top, left + side, top + side))


def random_crop(image: Image, size: int, random: np.random.RandomState) -> NDArray[np.uint8]:
    """Return a random crop of an image, resized to a square [H, W, C] (Inception, arXiv:1409.4842).

    The crop has 0.08 to 1 of the area and an aspect ratio of 3:4 to 4:3; if ten draws do not fit, it is the center.
    """
    for _ in range(MAX_DRAWS):
        area = image.width * image.height * random.uniform(MIN_AREA, 1)
        # Uniform in the logarithm, so that a ratio and its inverse are equally likely.
        ratio = math.exp(random.uniform(-math.log(MAX_ASPECT), math.log(MAX_ASPECT)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = random.randint(image.width - width + 1), random.randint(image.height - height + 1)
            return _resize(image, size, (left, top, left + width, top + height))
    return center_crop(image, size, 1.0)


def _resize(image: Image, size: int, box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    pixels = np.asarray(image.resize((size, size), Resampling.BICUBIC, box=box))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def encode_gray(pixels_BT: NDArray[np.uint8], inputs: PixelInputs) -> Tensor:
    """Return gray pixels as tokens [B, T] below 256 (`words`), or as values [B, T] in [-1, 1] (`numbers`)."""
    if inputs == "words":
        return torch.from_numpy(pixels_BT.astype(np.int64))
    return torch.from_numpy(pixels_BT.astype(np.float32)) / 127.5 - 1
