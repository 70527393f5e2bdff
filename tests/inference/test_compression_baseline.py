"""Compressed sizes are counted in bits for each byte of the text."""

import random
import zlib

import pytest

from archlab import ArchlabError
from archlab.inference.compression_baseline import compressed_bpb


def test_bits_per_byte() -> None:
    text = b"so much depends upon " * 500
    bpb = compressed_bpb(text)
    assert list(bpb) == ["zlib", "bz2", "xz"]
    assert bpb["zlib"] == 8 * len(zlib.compress(text, 9)) / len(text)
    assert all(0 < value < 0.2 for value in bpb.values())


def test_noise_does_not_compress() -> None:
    noise = random.Random(0).randbytes(20000)
    assert all(8 <= value < 8.2 for value in compressed_bpb(noise).values())


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ArchlabError, match="empty"):
        compressed_bpb(b"")
