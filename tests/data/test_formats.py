"""Documents are read from text, JSON lines and Parquet, and a damaged file is named."""

import gzip
import sys
from pathlib import Path

import pytest
from data_helpers import SENTENCES, write_json_lines, write_parquet

from archlab import ArchlabError
from archlab.data.formats import read_documents, read_file


def texts(file: Path, field: str = "text") -> list[str]:
    return [text.decode() for _, text in read_documents(file.name, file, field)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.parquet", "a.jsonl.gz"])
def test_every_document_of_a_table_is_read_once(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        write_parquet(tmp_path / name)
    else:
        data = write_json_lines(tmp_path / "plain").read_bytes()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert texts(tmp_path / name) == SENTENCES
    assert len({document for document, _ in read_documents(name, tmp_path / name, "text")}) == 300


def test_rows_of_parquet_are_counted_across_batches(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [str(n) for n in range(3000)])
    documents = list(read_documents("a", file, "text"))
    assert documents == [(f"a:{n}", str(n).encode()) for n in range(3000)]


def test_another_field_can_be_named(tmp_path: Path) -> None:
    file = write_json_lines(tmp_path / "a.jsonl", field="content")
    assert texts(file, "content") == SENTENCES
    with pytest.raises(ArchlabError, match=r"a\.jsonl:1: no field 'contents'; did you mean 'content'\?"):
        texts(file, "contents")
    file = write_parquet(tmp_path / "b" / "b.parquet", field="content")
    with pytest.raises(ArchlabError, match=r"b\.parquet: no column 'contents'; did you mean 'content'\?"):
        texts(file, "contents")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "cut of', r"a\.jsonl:3: is not JSON: .*; the file is truncated"),
        (b"[1]\n", r"a\.jsonl:3: is not a JSON object but list"),
        (b'{"text": 3}\n', r"a\.jsonl:3: the field 'text' is not a string but int"),
        ('{"text": "gr\u00fcn"}\n'.encode("latin-1"), r"a\.jsonl:3: is not UTF-8: byte 0xFC at 12"),
        (b'oh {"text": "a"}\n{"text": "b"}\n', r"a\.jsonl:3: is not JSON: .*; a line holds one object"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    file = write_json_lines(tmp_path / "a.jsonl", SENTENCES[:2])
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(ArchlabError, match=problem):
        texts(file)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(b"text" * 1000)[:-9])
    with pytest.raises(ArchlabError, match=r"b\.txt\.gz: is truncated or damaged"):
        read_file(packed)
    table = write_parquet(tmp_path / "a" / "a.parquet")
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(ArchlabError, match=r"a\.parquet: is truncated or not a Parquet file"):
        texts(table)


def test_a_column_must_hold_text(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"a\.parquet, row 1: the field 'text' is not a string but NoneType"):
        texts(write_parquet(tmp_path / "a.parquet", ["a", None]))


def test_a_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArchlabError, match=r"a\.parquet: Parquet needs the pyarrow library: pip install pyarrow"):
        texts(file)
