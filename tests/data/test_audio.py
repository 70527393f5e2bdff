"""WAV files are read as samples of one length."""

import wave
from pathlib import Path

import numpy as np
import pytest

from archlab import ArchlabError
from archlab.data.audio import read_wav


def write(file: Path, samples: list[int]) -> str:
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(8000)
        out.writeframes(np.array(samples, "<i2").tobytes())
    return str(file)


def test_samples_are_scaled_and_zero_padded(tmp_path: Path) -> None:
    samples = read_wav(write(tmp_path / "a.wav", [-32768, 0, 16384]), 8000, 5, "refuse")
    assert samples.dtype == np.float32
    assert samples.tolist() == [-1.0, 0.0, 0.5, 0.0, 0.0]


def test_a_longer_file_is_refused_or_cut(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", [1, 2, 3])
    assert (read_wav(file, 8000, 2, "cut") * 2**15).tolist() == [1, 2]
    with pytest.raises(ArchlabError, match=r"a\.wav: has 3 samples, more than train\.context 2; too_long: cut cuts"):
        read_wav(file, 8000, 2, "refuse")


def test_another_sample_rate_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"a\.wav: has 8000 samples a second, not the sample_rate 16000"):
        read_wav(write(tmp_path / "a.wav", [1]), 16000, 2, "refuse")
