"""Images are cropped and resized to squares."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from archlab import ArchlabError
from archlab.data.images import center_crop, encode_gray, random_crop, read_image
from archlab.data.sampling import random_state

Image = pytest.importorskip("PIL.Image", reason="images are read by Pillow")


def test_the_center_of_a_square_is_kept() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (5, 5, 3)).astype(np.uint8)
    assert np.array_equal(center_crop(Image.fromarray(pixels), 5, 1.0), pixels)
    assert np.array_equal(center_crop(Image.fromarray(pixels), 3, 0.6), pixels[1:4, 1:4])


def test_random_crops_are_within_the_image() -> None:
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


PIXELS = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """Return a PNG file with any header, whatever its rows are."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_pixels_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / f"a.{suffix}", lossless=True)
    assert np.array_equal(read_image(str(tmp_path / f"a.{suffix}"), "RGB"), PIXELS)


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    flipped, turned = PIXELS[:, ::-1], PIXELS.swapaxes(0, 1)
    upright = [PIXELS, PIXELS, flipped, PIXELS[::-1, ::-1], PIXELS[::-1], turned, turned[:, ::-1], turned[::-1, ::-1]]
    for orientation, expected in enumerate([*upright, turned[::-1], PIXELS]):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(read_image(str(tmp_path / "a.png"), "RGB"), expected)


def test_other_modes_are_converted(tmp_path: Path) -> None:
    gray = np.full((3, 4), 99, np.uint8)
    for mode in ("CMYK", "RGB", "L"):
        Image.fromarray(gray).convert(mode).save(tmp_path / "a.jpg", quality=95)
        assert np.abs(np.asarray(read_image(str(tmp_path / "a.jpg"), "L")).astype(int) - 99).max() <= 2


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[:1, :1]).save(tmp_path / "a.png")
    image = read_image(str(tmp_path / "a.png"), "RGB")
    for crop in (center_crop(image, 3, 0.8), random_crop(image, 3, random_state(0))):
        assert np.array_equal(crop, np.broadcast_to(PIXELS[0, 0], (3, 3, 3)))


def test_what_would_be_read_in_part_is_refused(tmp_path: Path) -> None:
    file, frames = tmp_path / "a.png", [Image.fromarray(255 - PIXELS)]
    pixels = Image.fromarray(PIXELS)
    pixels.save(file, save_all=True, append_images=frames)
    refused(file, "is animated, with 2 frames")
    pixels.save(tmp_path / "a.webp", save_all=True, append_images=frames)
    refused(tmp_path / "a.webp", "is animated, with 2 frames")
    for color, samples in ((2, 3), (6, 4), (4, 2)):
        file.write_bytes(png(2, 2, 16, color, (b"\0" + b"\x12\x34" * 2 * samples) * 2))
        refused(file, "has pixels of more than 8 bits")
    pixels.save(
        tmp_path / "a.mpo", save_all=True, append_images=frames
    )  # as cameras write it: the first is the picture
    assert read_image(str((tmp_path / "a.mpo").rename(tmp_path / "a.jpg")), "RGB").size == (5, 4)


@pytest.mark.parametrize("side", [9000, 10**5])
def test_a_decompression_bomb_is_refused_unread(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png(side, side, 8, 0, b""))
    refused(tmp_path / "a.png", "pixels")


@pytest.mark.parametrize("kind", ["GIF", "EPS", "TIFF"])
def test_another_format_is_refused_whatever_its_name_is(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png", kind)
    refused(tmp_path / "a.png", "cannot be read as an image: cannot identify image file")


def refused(file: Path, problem: str) -> None:
    with pytest.raises(ArchlabError) as caught:
        read_image(str(file), "RGB")
    assert str(caught.value).startswith(f"{file}: ")
    assert problem in str(caught.value)
