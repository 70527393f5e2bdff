"""Whatever a file holds, a reader returns what is in it, or refuses it in one line that names it."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archlab import ArchlabError
from archlab.data.audio import read_wav
from archlab.data.formats import read_documents
from archlab.data.images import read_image

pytestmark = pytest.mark.slow
few = settings(
    max_examples=400 if THOROUGH else 60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
bytes_at = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4)


def read_or_refuse(file: Path, data: bytes, read: Callable[[], object]) -> object | None:
    """Return what is read of a file with this content, or None if it is refused by name in one line."""
    file.write_bytes(data)
    try:
        return read()
    except ArchlabError as error:
        message = str(error)
        assert message.startswith(str(file))
        assert "\n" not in message
        assert len(message) > len(str(file)) + 5
        return None


def damage(data: bytes, changes: list[tuple[int, int]], keep: int) -> bytes:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    return bytes(damaged[: keep % (len(damaged) + 1)] if keep else damaged)


scalars = st.sampled_from([None, True, 0, -(10**30), 0.5, float("nan"), float("inf"), "", "a\u2028b"])
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.just("key"), scalars)
texts = st.text(st.sampled_from("a\0\r\n\x0b\x85\u2028\ud83d\ude00\U0001f600€"), max_size=6)
rows = st.dictionaries(st.sampled_from(["text", "id", "Text"]), texts | values, max_size=3) | values


@few
@given(lines=st.lists(rows, min_size=1, max_size=4), ascii=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_json_lines_are_read_as_they_were_written(tmp_path: Path, lines: list[object], ascii: bool, end: str) -> None:
    data = end.join(json.dumps(line, ensure_ascii=ascii) for line in lines).encode(errors="surrogatepass")
    file = tmp_path / "a.jsonl"
    found = read_or_refuse(file, data, lambda: [text.decode() for _, text in read_documents("a", file, "text")])
    expected = [line["text"] if isinstance(line, dict) and "text" in line else None for line in lines]
    if found is not None:
        assert found == expected
    elif all(isinstance(text, str) and text.isprintable() for text in expected):
        # Refused all the same only for numbers that JSON does not know, somewhere else in a line.
        assert b"NaN" in data or b"Infinity" in data


@few
@given(changes=bytes_at, keep=st.integers(0, 200))
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt", ".gz", ".xz", ".bz2", ".zip"])
def test_any_bytes_are_documents_or_refused(
    tmp_path: Path, suffix: str, changes: list[tuple[int, int]], keep: int
) -> None:
    whole = _packed(b'{"text": "gr\xc3\xbcne Ente", "id": [1, {"a": 2.5}]}\n' * 3, suffix)
    file = tmp_path / f"a{suffix}"
    found = read_or_refuse(file, damage(whole, changes, keep), lambda: list(read_documents("a", file, "text")))
    if found is not None and suffix in (".gz", ".xz", ".bz2", ".zip"):  # checksums: what is read is whole
        assert [text for _, text in found] == [b'{"text": "gr\xc3\xbcne Ente", "id": [1, {"a": 2.5}]}\n' * 3]  # type: ignore[attr-defined]


def _packed(data: bytes, suffix: str) -> bytes:
    import bz2
    import gzip
    import lzma
    import zipfile

    if suffix == ".zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a.txt", data)
        return out.getvalue()
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    return pack[suffix](data) if suffix in pack else data


@few
@given(changes=bytes_at, keep=st.integers(0, 10**4))
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_any_bytes_are_a_table_or_refused(
    tmp_path: Path, suffix: str, changes: list[tuple[int, int]], keep: int
) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="tables need pyarrow")
    from pyarrow import feather, parquet

    table, out = pyarrow.table({"text": ["grün", "Ente", ""], "id": [1, 2, 3]}), pyarrow.BufferOutputStream()
    if suffix == ".parquet":
        parquet.write_table(table, out)
    else:
        feather.write_feather(table, out, compression="uncompressed")
    file = tmp_path / f"a{suffix}"
    whole = out.getvalue().to_pybytes()
    read_or_refuse(file, damage(whole, changes, keep), lambda: list(read_documents("a", file, "text")))


names = st.sampled_from([b"LIST", b"fact", b"JUNK", b"note"])


@few
@given(
    before=st.lists(st.tuples(names, st.binary(max_size=9), st.booleans()), max_size=3),
    samples=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=5),
    changes=bytes_at,
    keep=st.sampled_from([0, 0, 1, 20, 43, 45, 50]),
)
def test_chunks_of_wav_files_are_skipped_whatever_they_hold(
    tmp_path: Path,
    before: list[tuple[bytes, bytes, bool]],
    samples: list[int],
    changes: list[tuple[int, int]],
    keep: int,
) -> None:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    body = b"".join(
        struct.pack("<4sI", name, len(held)) + held + b"\0" * (padded and len(held) % 2)
        for name, held, padded in before
    )
    sound = np.array(samples, "<i2").tobytes()
    data = b"WAVE" + form + body + struct.pack("<4sI", b"data", len(sound)) + sound
    data = struct.pack("<4sI", b"RIFF", len(data)) + data
    file = tmp_path / "a.wav"

    def read() -> list[float]:
        return (read_wav(str(file), 8000, len(samples), "refuse") * 2**15).tolist()

    whole = read_or_refuse(file, data, read)
    assert whole == samples or any(name == b"note" for name, _, _ in before)
    read_or_refuse(file, damage(data, changes, keep), read)


@few
@given(changes=bytes_at, keep=st.integers(0, 400))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_any_bytes_are_an_image_or_refused(
    tmp_path: Path, kind: str, changes: list[tuple[int, int]], keep: int
) -> None:
    images = pytest.importorskip("PIL.Image", reason="images are read by Pillow")
    out = io.BytesIO()
    images.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(out, kind)
    file = tmp_path / "a.png"
    read_or_refuse(file, damage(out.getvalue(), changes, keep), lambda: read_image(str(file), "RGB").size)
