"""Documents in files: plain text, JSON lines, Parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from archlab.errors import ArchlabError, did_you_mean, one_line

Document: TypeAlias = tuple[str, bytes]


def documents_of(name: str, path: Path, field: str) -> Iterator[Document]:
    """Yield the documents of a file by names of their own: one of a text, those of a table, by their `field`.

    `*.jsonl` (or .ndjson, .jsonl.gz) hold a JSON object a line, `*.parquet` a column of text. Raises ArchlabError
    naming file and place of what is missing, cut off, or no text.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".parquet"]:
        yield from _of_parquet(name, path, field)
    elif {".jsonl", ".ndjson"} & set(suffixes[-2:]):
        yield from _of_json_lines(name, path, field)
    else:
        yield name, read_file(path)


def read_file(path: Path) -> bytes:
    """Return a file's bytes, unpacked where its name ends in .gz."""
    if not path.is_file():
        raise ArchlabError(f"{path}: cannot be read: not a file, or a link to nothing")
    try:
        packed = path.read_bytes()
        return gzip.decompress(packed) if path.suffix == ".gz" else packed
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchlabError(f"{path}: is cut off or damaged: {one_line(error)}") from error
    except OSError as error:
        raise ArchlabError(f"{path}: cannot be read: {error.strerror}") from error


def require_utf8(text: bytes, place: str) -> None:
    """Raise ArchlabError where bytes are not UTF-8, with the first that is not."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise ArchlabError(
            f"{place}: is not UTF-8: byte 0x{text[error.start]:02X} at {error.start:,}; convert the file"
        ) from error


def _of_json_lines(name: str, path: Path, field: str) -> Iterator[Document]:
    lines = read_file(path).splitlines()
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if line.strip():
            require_utf8(line, place)
            yield f"{name}:{number}", _field(_parsed(line, place, number == len(lines)), field, place).encode()


def _parsed(line: bytes, place: str, last: bool) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        why = "the file is cut off" if last else "a line holds one object"
        raise ArchlabError(f"{place}: is no JSON: {one_line(error)}; {why}") from error


def _field(entry: Any, field: str, place: str) -> str:
    if not isinstance(entry, dict):
        raise ArchlabError(f"{place}: is no JSON object but {type(entry).__name__}")
    if field not in entry:
        raise ArchlabError(f"{place}: no field {field!r}{did_you_mean(field, entry)}")
    if not isinstance(entry[field], str):
        raise ArchlabError(f"{place}: the field {field!r} is no text but {type(entry[field]).__name__}")
    return str(entry[field])


def _of_parquet(name: str, path: Path, field: str) -> Iterator[Document]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ArchlabError(f"{path}: Parquet needs the pyarrow library: pip install pyarrow") from error
    try:
        table = parquet.ParquetFile(path)
        columns = table.schema_arrow.names
        if field in columns:
            for start, batch in enumerate(table.iter_batches(columns=[field], batch_size=1024)):
                for place, text in enumerate(batch.column(0).to_pylist(), 1024 * start):
                    yield f"{name}:{place}", _text(text, field, f"{path}, row {place}")
            return
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise ArchlabError(f"{path}: is cut off or no Parquet file: {one_line(error)}") from error
    raise ArchlabError(f"{path}: no column {field!r}{did_you_mean(field, columns)}")


def _text(value: Any, field: str, place: str) -> bytes:
    if not isinstance(value, str):
        raise ArchlabError(f"{place}: the field {field!r} is no text but {type(value).__name__}")
    return value.encode()
