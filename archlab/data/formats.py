"""Document formats: plain text, JSON, tables; each also compressed or in a zip archive."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from archlab.data.compressed import decompress, iter_bytes, read_bytes, split_suffix
from archlab.data.file_types import (
    BOM,
    is_no_data,
    iter_lines,
    list_briefly,
    require_text,
    require_text_name,
    require_utf8,
    split_lines,
)
from archlab.data.json_documents import read_json, read_json_lines
from archlab.data.tables import read_table
from archlab.errors import ArchlabError, one_line

Document: TypeAlias = tuple[str, bytes]

_log = logging.getLogger(__name__)
_JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
_TABLES = (".parquet", ".arrow", ".feather")


def read_documents(
    name: str, path: Path, field: str, advance: Callable[[int], None] = lambda num_bytes: None
) -> Iterator[Document]:
    """Yield the documents of a file: a text file is one document, JSON and tables have one in the `field` of each row.

    Text, `*.jsonl`, `*.json`, `*.parquet` and `*.arrow` are detected by their suffixes in any case, before one of
    compression (.gz, .xz, .bz2, .zst); a `*.zip` holds such files. Raises ArchlabError naming the file, and its row, of
    data that is truncated, damaged, not text, or of another format. JSON lines are read line by line, of a file of any
    size; `advance` is called with the number of bytes read.
    """
    suffix, compression = split_suffix(path.name)
    if suffix in _JSON_LINES:
        lines = iter_lines(iter_bytes(path, compression, advance))
        yield from _at_least_one(name, read_json_lines(name, lines, field, str(path)))
        return
    data = read_bytes(path)
    advance(len(data))
    yield from _read_data(name, path.name, data, field, str(path))


def _read_data(name: str, file: str, data: bytes, field: str, location: str) -> Iterator[Document]:
    suffix, compression = split_suffix(file)
    for packed in compression:
        data = decompress(data, packed, location)
    if suffix == ".zip":
        yield from _read_zip(name, data, field, location)
        return
    require_text_name(suffix, location)
    if suffix in _TABLES:
        documents = read_table(name, data, field, suffix, location)
    elif suffix in _JSON_LINES:
        documents = read_json_lines(name, split_lines(data.removeprefix(BOM)), field, location)
    elif suffix == ".json":
        documents = read_json(name, data, field, location)
    else:
        documents = iter([(name, require_text(data, location))])
    yield from _at_least_one(name, documents)


def _at_least_one(name: str, documents: Iterator[Document]) -> Iterator[Document]:
    # A table without a row is an empty document: an empty test split must be noticed, not cut from another.
    yield next(documents, (name, b""))
    yield from documents


def _read_zip(name: str, data: bytes, field: str, location: str) -> Iterator[Document]:
    members = _read_members(data, location)
    left_out = [member for member, _ in members if is_no_data(member)]
    if left_out:
        _log.warning("%s: left out, not data by name: %s", location, list_briefly(left_out))
    if len(left_out) == len(members):
        raise ArchlabError(f"{location}: holds no files{' but ' * bool(left_out)}{list_briefly(left_out)}")
    for member, content in members:
        if is_no_data(member):
            continue
        if split_suffix(member)[0] == ".zip":
            raise ArchlabError(f"{location}, {member}: is a zip archive in another; unpack it")
        yield from _read_data(f"{name}/{member}", member, content, field, f"{location}, {member}")


def _read_members(data: bytes, location: str) -> list[Document]:
    """Return the files of a zip archive, sorted by name, hidden ones and those of macOS left out."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = sorted(name for name in archive.namelist() if not name.endswith("/") and not _is_hidden(name))
            twice = [name for name, after in pairwise(names) if name == after]
            if twice or "" in names:
                raise zipfile.BadZipFile(f"it holds {twice[0]!r} twice" if twice else "a file has no name")
            return [(name, archive.read(name)) for name in names]
    # Encrypted files raise RuntimeError, unknown methods NotImplementedError, damaged data errors of a dozen types.
    except Exception as error:
        raise ArchlabError(f"{location}: cannot be read as a zip archive: {one_line(error)}") from error


def _is_hidden(member: str) -> bool:
    parts = PurePosixPath(member).parts
    return "__MACOSX" in parts or any(part.startswith(".") for part in parts)


def read_file(path: Path) -> bytes:
    """Return a file's bytes, decompressed if its name ends in a suffix of compression."""
    data = read_bytes(path)
    for suffix in split_suffix(path.name)[1]:
        data = decompress(data, suffix, str(path))
    return data


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file; raise ArchlabError naming one that is not UTF-8."""
    data = read_file(path)
    require_utf8(data, str(path))
    return [line.decode() for line in split_lines(data.removeprefix(BOM))]
