"""WAV files as arrays of samples."""

from __future__ import annotations

import wave

import numpy as np
from numpy.typing import NDArray

from archlab.data.splits import Overflow
from archlab.errors import ArchlabError, one_line


def read_wav(path: str, sample_rate: int, length: int, too_long: Overflow) -> NDArray[np.float32]:
    """Read a 16-bit mono WAV file as samples in [-1, 1), zero-padded at the end to `length`.

    Raises ArchlabError naming a file that is damaged, empty, of another format, or too long under `refuse`.
    """
    try:
        with wave.open(path, "rb") as file:
            params, num_frames = file.getparams(), file.getnframes()
            _require_format(path, params.nchannels, params.sampwidth, params.framerate, sample_rate)
            samples = np.frombuffer(file.readframes(num_frames), "<i2")
    # A truncated header raises EOFError in wave, a truncated body ValueError in numpy.
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise ArchlabError(f"{path}: cannot be read as a WAV file: {one_line(error)}") from error
    # wave returns fewer frames than the header announces without an error.
    if len(samples) != num_frames or not num_frames:
        raise ArchlabError(f"{path}: has {len(samples)} of the {num_frames} samples in its header: truncated or empty")
    if num_frames > length and too_long == "refuse":
        raise ArchlabError(f"{path}: has {num_frames} samples, more than train.context {length}; too_long: cut cuts")
    padded = np.pad(samples[:length], (0, max(0, length - num_frames)))
    return padded.astype(np.float32) / np.float32(2**15)


def _require_format(path: str, channels: int, width: int, rate: int, sample_rate: int) -> None:
    if (channels, width) != (1, 2):
        raise ArchlabError(f"{path}: has {channels} channels of {8 * width} bits, not 1 of 16")
    if rate != sample_rate:
        raise ArchlabError(f"{path}: has {rate} samples a second, not the sample_rate {sample_rate}")
