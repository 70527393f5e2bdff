"""Document formats: plain text, JSON lines, Parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from archlab.errors import ArchlabError, did_you_mean, one_line

Document: TypeAlias = tuple[str, bytes]


def read_documents(name: str, path: Path, field: str) -> Iterator[Document]:
    """Yield the documents of a file: a text file is one document, a table has one in the `field` of each row.

    `*.jsonl` (or .ndjson, .jsonl.gz) hold one JSON object per line, `*.parquet` a text column. Raises ArchlabError
    naming the file and row of a field that is missing, truncated, or not a string.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".parquet"]:
        yield from _read_parquet(name, path, field)
    elif {".jsonl", ".ndjson"} & set(suffixes[-2:]):
        yield from _read_json_lines(name, path, field)
    else:
        yield name, read_file(path)


def read_file(path: Path) -> bytes:
    """Return a file's bytes, decompressed if its name ends in .gz."""
    if not path.is_file():
        raise ArchlabError(f"{path}: cannot be read: not a file, or a broken link")
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchlabError(f"{path}: is truncated or damaged: {one_line(error)}") from error
    except OSError as error:
        raise ArchlabError(f"{path}: cannot be read: {error.strerror}") from error


def require_utf8(text: bytes, location: str) -> None:
    """Raise ArchlabError naming the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise ArchlabError(
            f"{location}: is not UTF-8: byte 0x{text[error.start]:02X} at {error.start:,}; convert the file"
        ) from error


def _read_json_lines(name: str, path: Path, field: str) -> Iterator[Document]:
    lines = read_file(path).splitlines()
    for number, line in enumerate(lines, 1):
        location = f"{path}:{number}"
        if line.strip():
            require_utf8(line, location)
            entry = _parse_json(line, location, is_last=number == len(lines))
            yield f"{name}:{number}", _get_field(entry, field, location).encode()


def _parse_json(line: bytes, location: str, *, is_last: bool) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        hint = "the file is truncated" if is_last else "a line holds one object"
        raise ArchlabError(f"{location}: is not JSON: {one_line(error)}; {hint}") from error


def _get_field(entry: Any, field: str, location: str) -> str:
    if not isinstance(entry, dict):
        raise ArchlabError(f"{location}: is not a JSON object but {type(entry).__name__}")
    if field not in entry:
        raise ArchlabError(f"{location}: no field {field!r}{did_you_mean(field, entry)}")
    if not isinstance(entry[field], str):
        raise ArchlabError(f"{location}: the field {field!r} is not a string but {type(entry[field]).__name__}")
    return str(entry[field])


def _read_parquet(name: str, path: Path, field: str) -> Iterator[Document]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ArchlabError(f"{path}: Parquet needs the pyarrow library: pip install pyarrow") from error
    try:
        table = parquet.ParquetFile(path)
        columns = table.schema_arrow.names
        if field in columns:
            row = 0
            for batch in table.iter_batches(columns=[field], batch_size=1024):
                for text in batch.column(0).to_pylist():
                    yield f"{name}:{row}", _encode_text(text, field, f"{path}, row {row}")
                    row += 1
            return
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ArchlabError(f"{path}: is truncated or not a Parquet file: {one_line(error)}") from error
    raise ArchlabError(f"{path}: no column {field!r}{did_you_mean(field, columns)}")


def _encode_text(value: Any, field: str, location: str) -> bytes:
    if not isinstance(value, str):
        raise ArchlabError(f"{location}: the field {field!r} is not a string but {type(value).__name__}")
    return value.encode()
