"""Images are cropped and resized to squares."""

import numpy as np
import pytest
import torch

from archlab.data.images import center_crop, encode_gray, random_crop
from archlab.data.sampling import random_state

Image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")


def test_the_center_of_a_square_is_kept() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (5, 5, 3)).astype(np.uint8)
    assert np.array_equal(center_crop(Image.fromarray(pixels), 5, 1.0), pixels)
    assert np.array_equal(center_crop(Image.fromarray(pixels), 3, 0.6), pixels[1:4, 1:4])


def test_random_crops_lie_within_the_image() -> None:
    ramp = Image.fromarray(np.broadcast_to(np.arange(0, 250, 10, dtype=np.uint8), (20, 25)).copy())
    crops = [random_crop(ramp, 8, random_state(0, draw)) for draw in range(100)]
    assert {crop.shape for crop in crops} == {(8, 8, 1)}
    assert all((np.diff(crop[0, :, 0].astype(int)) >= 0).all() for crop in crops)
    spans = [int(crop.max()) - int(crop.min()) for crop in crops]
    assert min(spans) < 80 < 180 < max(spans)
    strip = Image.fromarray(np.zeros((1, 50), np.uint8))
    assert random_crop(strip, 8, random_state(0)).shape == (8, 8, 1)


def test_gray_pixels_are_tokens_or_values() -> None:
    pixels = np.array([[0, 51, 255]], np.uint8)
    assert encode_gray(pixels, "words").tolist() == [[0, 51, 255]]
    torch.testing.assert_close(encode_gray(pixels, "numbers"), torch.tensor([[-1.0, -0.6, 1.0]]))
