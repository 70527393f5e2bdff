"""WAV files as arrays of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archlab.data.compressed import read_bytes
from archlab.data.riff import Waveform, parse_wav
from archlab.data.splits import Overflow
from archlab.errors import ArchlabError, one_line


def read_wav(path: str, sample_rate: int, length: int, too_long: Overflow) -> NDArray[np.float32]:
    """Read a 16-bit mono WAV file as samples in [-1, 1), zero-padded at the end to `length`.

    Raises ArchlabError naming a file that is damaged, empty, of another format, or too long under `refuse`.
    """
    data = read_bytes(Path(path))
    try:
        wave = parse_wav(data)
    except ValueError as error:
        raise ArchlabError(f"{path}: cannot be read as a WAV file: {one_line(error)}") from error
    _require_format(path, wave, sample_rate)
    samples, num_frames = wave.samples, wave.num_frames
    if not num_frames:
        raise ArchlabError(f"{path}: has 0 of the 0 samples in its header: truncated or empty")
    if num_frames > length and too_long == "refuse":
        raise ArchlabError(f"{path}: has {num_frames} samples, more than train.context {length}; too_long: cut cuts")
    padded = np.pad(samples[:length], (0, max(0, length - num_frames)))
    return padded.astype(np.float32) / np.float32(2**15)


def _require_format(path: str, wave: Waveform, sample_rate: int) -> None:
    if (wave.num_channels, wave.bits) != (1, 16):
        raise ArchlabError(f"{path}: has {wave.num_channels} channels of {wave.bits} bits, not 1 of 16")
    if wave.sample_rate != sample_rate:
        raise ArchlabError(f"{path}: has {wave.sample_rate} samples a second, not the sample_rate {sample_rate}")
