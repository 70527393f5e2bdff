"""Documents of tables: Parquet, and Arrow's own files (Feather)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from archlab.data.json_documents import encode_text
from archlab.errors import ArchlabError, did_you_mean, one_line

_BATCH = 1024  # rows that are Python objects at a time
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


def read_table(name: str, data: bytes, field: str, suffix: str, location: str) -> Iterator[tuple[str, bytes]]:
    """Yield the documents of a table, one in the column `field` of each row.

    Raises ArchlabError naming a damaged table, a missing column, and the row of a field that is not text.
    """
    kind = "a Parquet" if suffix == ".parquet" else "an Arrow"
    _require_pyarrow(kind, location)
    try:
        column = _read_column(data, field, suffix)
    except ArchlabError as error:
        raise ArchlabError(f"{location}: {error}") from error
    except Exception as error:  # pyarrow's errors are OSErrors, ValueErrors, KeyErrors and NotImplementedErrors
        raise ArchlabError(f"{location}: is truncated or not {kind} file: {one_line(error)}") from error
    for start in range(0, len(column), _BATCH):
        for row, text in enumerate(_to_python(column.slice(start, _BATCH), start, location), start):
            yield f"{name}:{row}", encode_text(text, field, f"{location}, row {row}")


def _require_pyarrow(kind: str, location: str) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        library = f"{kind.split()[1]} needs the pyarrow library: pip install pyarrow"
        raise ArchlabError(f"{location}: {library}") from error


def _read_column(data: bytes, field: str, suffix: str) -> Any:
    import pyarrow
    from pyarrow import ipc, parquet

    source = pyarrow.BufferReader(data)
    if suffix == ".parquet":
        table = parquet.ParquetFile(source, page_checksum_verification=True)
        _require_column(field, table.schema_arrow)
        return table.read(columns=[field]).column(0)
    is_file = data.startswith(b"ARROW1")
    # A stream that is cut between two batches reads without an error, as a shorter one.
    if not is_file and not data.endswith(_STREAM_END):
        raise ArchlabError("is truncated or not an Arrow file: the end of the stream is missing")
    reader = ipc.open_file(source) if is_file else ipc.open_stream(source)
    _require_column(field, reader.schema)
    table = reader.read_all()
    table.validate(full=True)  # damaged offsets would be read outside of the buffers
    return table.column(field)


def _require_column(field: str, schema: Any) -> None:
    if schema.names.count(field) != 1:
        problem = f"two columns {field!r}" if field in schema.names else f"no column {field!r}"
        raise ArchlabError(f"{problem}{'' if field in schema.names else did_you_mean(field, schema.names)}")


def _to_python(rows: Any, start: int, location: str) -> list[Any]:
    try:
        return list(rows.to_pylist())
    except ValueError:  # which does not name the row
        return [_row_to_python(value, f"{location}, row {row}") for row, value in enumerate(rows, start)]


def _row_to_python(value: Any, location: str) -> Any:
    try:
        return value.as_py()
    except ValueError as error:
        raise ArchlabError(f"{location}: is not UTF-8: {one_line(error)}") from error
