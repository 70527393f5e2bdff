"""WAV files are read as samples of one length."""

import struct
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


PCM = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
GUID = bytes.fromhex("000000001000800000aa00389b71")
SAMPLES = [1, -2, 300]
DATA = np.array(SAMPLES, "<i2").tobytes()


def chunk(name: bytes, body: bytes, *, padded: bool = True, size: int | None = None) -> bytes:
    pad = b"\0" if padded and len(body) % 2 else b""
    return name + struct.pack("<I", len(body) if size is None else size) + body + pad


def riff(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body


def extensible(bits: int, kind: int, valid: int = 16) -> bytes:
    return struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 8000, 16000, bits // 8, bits, 22, valid, 4, kind) + GUID


@pytest.mark.parametrize(
    "data",
    [
        riff(chunk(b"fmt ", PCM), chunk(b"LIST", b"odd"), chunk(b"data", DATA)),
        riff(chunk(b"fmt ", PCM), chunk(b"LIST", b"odd", padded=False), chunk(b"data", DATA)),
        riff(chunk(b"junk", b"odd", padded=False), chunk(b"fmt ", PCM), chunk(b"data", DATA)),
        riff(chunk(b"fmt ", PCM), chunk(b"data", DATA), chunk(b"LIST", b"odd", padded=False)),
        riff(chunk(b"fmt ", PCM), chunk(b"data", DATA), b"behind"),
        riff(chunk(b"data", DATA), chunk(b"fmt ", PCM + b"\0\0")),
        riff(chunk(b"fmt ", extensible(16, 1)), chunk(b"data", DATA)),
        riff(chunk(b"fmt ", PCM), chunk(b"data", DATA), size=0),
        riff(chunk(b"fmt ", PCM), chunk(b"data", DATA), size=2**32 - 1),
    ],
)
def test_chunks_are_found_as_recorders_write_them(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    assert (read_wav(str(tmp_path / "a.wav"), 8000, 4, "refuse") * 2**15).tolist() == [*SAMPLES, 0]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it begins with b'', not with RIFF and WAVE"),
        (riff(chunk(b"fmt ", PCM), chunk(b"data", DATA), magic=b"RF64"), "it begins with b'RF64', not with RIFF"),
        (riff(chunk(b"fmt ", PCM), chunk(b"data", DATA), magic=b"RIFX"), "it begins with b'RIFX', not with RIFF"),
        (riff(chunk(b"data", DATA)), "no format chunk: the file is truncated"),
        (riff(chunk(b"fmt ", PCM)), "no data chunk: the file is truncated"),
        (riff(chunk(b"fmt ", PCM[:8]), chunk(b"data", DATA)), "a format chunk of 8 bytes, not 16 or more"),
        (riff(chunk(b"fmt ", PCM), chunk(b"data", DATA, size=8)), "data has 6 of the 8 bytes in its header: truncated"),
        (riff(chunk(b"fmt ", PCM), chunk(b"data", DATA, size=2**32 - 1)), "data has 6 of the 4294967295 bytes"),
        (riff(chunk(b"fmt ", PCM), chunk(b"data", DATA[:5])), "5 bytes of samples are not whole frames of 2"),
        (riff(chunk(b"fmt ", PCM), chunk(b"data", DATA), chunk(b"data", DATA)), "the chunk data appears twice"),
        (riff(chunk(b"fmt ", PCM), chunk(b"data", DATA)) * 2, "the chunk RIFF appears twice"),
        (riff(chunk(b"fmt ", extensible(32, 3, 32)), chunk(b"data", DATA)), "unknown format: 3"),
        (riff(chunk(b"fmt ", extensible(16, 1, 12)), chunk(b"data", DATA)), "samples of 12 bits in 16"),
        (riff(chunk(b"fmt ", PCM[:12] + b"\5\0\20\0"), chunk(b"data", DATA)), "frames of 5 bytes for 1 channels of 16"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(ArchlabError) as caught:
        read_wav(str(tmp_path / "a.wav"), 8000, 4, "refuse")
    assert str(caught.value).startswith(f"{tmp_path / 'a.wav'}: cannot be read as a WAV file: ")
    assert problem in str(caught.value)
