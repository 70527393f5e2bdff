"""Files of sound."""

from __future__ import annotations

import wave

import numpy as np
from numpy.typing import NDArray

from archlab.data.splits import Overflow
from archlab.errors import ArchlabError, one_line


def read_wave(path: str, sample_rate: int, length: int, too_long: Overflow) -> NDArray[np.float32]:
    """Return a 16-bit, one-channel WAV file as numbers from -1 to 1, followed by silence up to `length` samples.

    Raises ArchlabError naming a file that is damaged, empty, of another form, or longer where this is refused.
    """
    try:
        with wave.open(path, "rb") as file:
            form, said = file.getparams(), file.getnframes()
            _require_form(path, form.nchannels, form.sampwidth, form.framerate, sample_rate)
            samples = np.frombuffer(file.readframes(said), "<i2")
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise ArchlabError(f"{path}: cannot be read as a WAV file: {one_line(error)}") from error
    if len(samples) != said or not said:
        raise ArchlabError(f"{path}: holds {len(samples)} samples of the {said} that it says: it is cut short or empty")
    if said > length and too_long == "refuse":
        raise ArchlabError(f"{path}: has {said} samples, more than train.context {length}; too_long: cut would cut it")
    padded = np.pad(samples[:length], (0, max(0, length - said)))
    return padded.astype(np.float32) / np.float32(2**15)


def _require_form(path: str, channels: int, width: int, rate: int, sample_rate: int) -> None:
    if (channels, width) != (1, 2):
        raise ArchlabError(f"{path}: has {channels} channels of {8 * width} bits, not 1 of 16")
    if rate != sample_rate:
        raise ArchlabError(f"{path}: has {rate} samples a second, not the sample_rate {sample_rate}")
