"""The chunks of a WAV file, and its samples of 16 bits.

Python's wave module reads neither WAVE_FORMAT_EXTENSIBLE nor chunks without padding, which recorders write.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NAMES = (b"fmt ", b"data", b"fact", b"LIST", b"JUNK", b"PEAK", b"bext", b"cue ", b"smpl", b"inst", b"iXML", b"id3 ")
_PCM, _EXTENSIBLE = 1, 0xFFFE
# The end of the GUID of a format that has a number, as all that are in use.
_GUID_END = bytes.fromhex("000000001000800000aa00389b71")


class Waveform(NamedTuple):
    """Samples of interleaved channels, one number a sample where they are mono of 16 bits, and how they are stored."""

    samples: NDArray[np.int16]
    num_channels: int
    bits: int
    sample_rate: int
    num_frames: int


def parse_wav(data: bytes) -> Waveform:
    """Read a WAV file of PCM samples; samples are empty unless they have 16 bits.

    Raises ValueError for a damaged file, and for another encoding.
    """
    chunks = _read_chunks(data)
    if b"fmt " not in chunks or b"data" not in chunks:
        raise ValueError(f"no {'format' if b'fmt ' not in chunks else 'data'} chunk: the file is truncated")
    channels, sample_rate, block, bits = _parse_format(chunks[b"fmt "])
    body, size = chunks[b"data"], block or 1
    if len(body) % size:
        raise ValueError(f"{len(body)} bytes of samples are not whole frames of {size}")
    samples = np.frombuffer(body, "<i2") if bits == 16 else np.zeros(0, np.int16)
    return Waveform(samples, channels, bits, sample_rate, len(body) // size)


def _read_chunks(data: bytes) -> dict[bytes, bytes]:
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError(f"it begins with {data[:4]!r}, not with RIFF and WAVE")
    chunks = {b"RIFF": b""}
    start = 12
    while len(data) - start >= 8:
        name, size = struct.unpack_from("<4sI", data, start)
        start, end = start + 8, start + 8 + size
        if name in (b"RIFF", b"fmt ", b"data") and (name in chunks or end > len(data)):
            problem = (
                "appears twice" if name in chunks else f"has {len(data) - start} of the {size} bytes in its header"
            )
            raise ValueError(f"the chunk {name.decode().strip()} {problem}: truncated or damaged")
        chunks[name] = data[start:end]
        start = end + (size % 2 and _padding(data, end))
    return chunks


def _padding(data: bytes, end: int) -> int:
    """Return 1 if a chunk of odd size is padded, as the format demands and not all recorders do."""
    is_name, is_name_behind = (data[start : start + 4] in _NAMES for start in (end, end + 1))
    return int(not is_name and (is_name_behind or data[end : end + 1] == b"\0"))


def _parse_format(chunk: bytes) -> tuple[int, int, int, int]:
    """Return channels, sample rate, bytes of a frame, and bits of a sample."""
    if len(chunk) < 16:
        raise ValueError(f"a format chunk of {len(chunk)} bytes, not 16 or more")
    encoding, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if encoding == _EXTENSIBLE and chunk[26:40] == _GUID_END:
        encoding, valid_bits = struct.unpack_from("<H", chunk, 24)[0], struct.unpack_from("<H", chunk, 18)[0]
        if valid_bits not in (0, bits):
            raise ValueError(f"samples of {valid_bits} bits in {bits}")
    if encoding != _PCM:
        raise ValueError(f"unknown format: {encoding}")
    if block != channels * ((bits + 7) // 8):
        raise ValueError(f"frames of {block} bytes for {channels} channels of {bits} bits")
    return channels, rate, block, bits
