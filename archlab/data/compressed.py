"""Compressed files: gzip, xz, bzip2 and Zstandard."""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, Protocol

from archlab.errors import ArchlabError, one_line


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),  # 31: the header and checksum of gzip
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    ".lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE),
    ".bz2": bz2.BZ2Decompressor,
}
COMPRESSED = (*_DECOMPRESSORS, ".zst")
_CHUNK = 2**16  # bytes that are copied for each stream: bgzip writes one for every 64 kB
_PIECE = 2**20  # bytes of a file that are read at a time
_SHARD = re.compile(r"[-_.]\d+(?:-of-\d+)?$")


def split_suffix(name: str) -> tuple[str, list[str]]:
    """Return the suffix of a file as it is when decompressed, and those of compression, from the last; in lower case.

    The suffix of `a.jsonl-00000-of-00002` is `.jsonl`.
    """
    path, compression = PurePath(name.lower()), []
    while path.suffix in COMPRESSED:
        compression.append(path.suffix)
        path = path.with_suffix("")
    unnumbered = PurePath(_SHARD.sub("", path.name)).suffix
    return (unnumbered if unnumbered and _SHARD.search(path.name) else path.suffix), compression


def decompress(data: bytes, suffix: str, location: str) -> bytes:
    """Return the decompressed data; raise ArchlabError if they are truncated, damaged or not compressed."""
    try:
        return _decompress_zstd(data, location) if suffix == ".zst" else _decompress(data, _DECOMPRESSORS[suffix])
    except (ArchlabError, MemoryError):
        raise
    except Exception as error:  # each library has errors of its own
        raise ArchlabError(f"{location}: is truncated or damaged, as {suffix} data: {one_line(error)}") from error


def iter_bytes(path: Path, compression: Sequence[str], advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a file's bytes in pieces, decompressed; raise ArchlabError naming one that cannot be read, or is damaged.

    `advance` is called with the number of bytes read from the file.
    """
    if len(compression) > 1:  # which is unusual
        data = read_bytes(path)
        for suffix in compression:
            data = decompress(data, suffix, str(path))
        yield data
        return
    chunks = _iter_file(path, advance)
    if not compression:
        yield from chunks
        return
    try:
        yield from _iter_decompressed(chunks, compression[0], str(path))
    except (ArchlabError, MemoryError):
        raise
    except Exception as error:  # each library has errors of its own
        raise ArchlabError(f"{path}: is truncated or damaged, as {compression[0]} data: {one_line(error)}") from error


def _iter_file(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    try:
        if not path.is_file():  # a FIFO would be waited for
            raise ArchlabError(f"{path}: cannot be read: not a file, or a broken link")
        with path.open("rb") as file:
            while chunk := file.read(_PIECE):
                advance(len(chunk))
                yield chunk
    except OSError as error:
        raise ArchlabError(f"{path}: cannot be read: {error.strerror}") from error


def _iter_decompressed(chunks: Iterator[bytes], suffix: str, location: str) -> Iterator[bytes]:
    if suffix == ".zst":
        yield from _iter_zstd(chunks, location)
        return
    stream: _Decompressor | None = None
    num_streams = 0
    for chunk in chunks:
        left = chunk
        while left:
            if stream is None and not (left := left.lstrip(b"\0") if num_streams else left):  # see `_decompress`
                break
            if stream is None:
                stream, num_streams = _DECOMPRESSORS[suffix](), num_streams + 1
            yield stream.decompress(left)
            left = stream.unused_data if stream.eof else b""
            stream = None if stream.eof else stream
    if stream is not None or not num_streams:
        raise EOFError("the data end before the end of a stream")


def _iter_zstd(chunks: Iterator[bytes], location: str) -> Iterator[bytes]:
    first = next(chunks, b"")
    if not first:
        raise EOFError("the file is empty")
    with _open_zstd(_Joined(first, chunks), location) as stream:
        while piece := stream.read(_PIECE):
            yield bytes(piece)


def _open_zstd(file: Any, location: str) -> Any:
    for library in ("compression.zstd", "backports.zstd"):  # the first comes with Python 3.14
        with suppress(ImportError):
            return importlib.import_module(library).open(file)
    try:
        import pyarrow
    except ImportError as error:
        raise ArchlabError(f"{location}: Zstandard needs the pyarrow library: pip install pyarrow") from error
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


class _Joined(io.RawIOBase):
    """Chunks as a file that can be read once, from its start."""

    def __init__(self, first: bytes, chunks: Iterable[bytes]) -> None:
        self.left, self.chunks = first, iter(chunks)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.left = self.left or next(self.chunks, b"")
        piece, self.left = self.left[: len(buffer)], self.left[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _decompress(data: bytes, decompressor: Callable[[], _Decompressor]) -> bytes:
    """Decompress every stream of a file: those behind the first are dropped by lzma and bz2 if they are damaged."""
    parts: list[bytes] = []
    start = 0
    while start < len(data) or not parts:
        stream = decompressor()
        while not stream.eof:
            if start >= len(data):
                raise EOFError("the data end before the end of a stream")
            parts.append(stream.decompress(data[start : start + _CHUNK]))
            start += _CHUNK
        start = min(start, len(data)) - len(stream.unused_data)
        # The formats allow zeros behind a stream, to fill a block of a tape.
        while data[start : start + 1] == b"\0":
            start += 1
    return b"".join(parts)


def _decompress_zstd(data: bytes, location: str) -> bytes:
    if not data:
        raise EOFError("the file is empty")
    for library in ("compression.zstd", "backports.zstd"):  # the first comes with Python 3.14
        with suppress(ImportError):
            return bytes(importlib.import_module(library).decompress(data))
    try:
        import pyarrow
    except ImportError as error:
        raise ArchlabError(f"{location}: Zstandard needs the pyarrow library: pip install pyarrow") from error
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd") as stream:
        return bytes(stream.read())


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes as they are; raise ArchlabError naming a file that cannot be read."""
    try:
        if not path.is_file():  # a FIFO would be waited for
            raise ArchlabError(f"{path}: cannot be read: not a file, or a broken link")
        return path.read_bytes()
    except OSError as error:
        raise ArchlabError(f"{path}: cannot be read: {error.strerror}") from error
