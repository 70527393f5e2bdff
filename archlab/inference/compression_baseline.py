"""Bits per byte of general-purpose compressors on a text, a baseline for language models."""

from __future__ import annotations

import bz2
import lzma
import zlib

from archlab.errors import ArchlabError


def compressed_bpb(text: bytes) -> dict[str, float]:
    """Return bits per byte of zlib, bz2 and xz at their highest levels; raise ArchlabError if the text is empty."""
    if not text:
        raise ArchlabError("an empty text cannot be compressed")
    sizes = {
        "zlib": len(zlib.compress(text, 9)),
        "bz2": len(bz2.compress(text, 9)),
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}
