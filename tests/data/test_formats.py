"""Documents are read from text, JSON lines and Parquet, and a damaged file is named."""

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import sys
import zipfile
from pathlib import Path

import pytest
from data_helpers import SENTENCES, write_json_lines, write_parquet

from archlab import ArchlabError
from archlab.data import compressed
from archlab.data.formats import read_documents, read_file, read_lines


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


def test_a_row_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    from pyarrow import parquet

    column = pyarrow.array([b"text"] * 2000 + [b"\xff"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(ArchlabError, match=r"a\.parquet, row 2000: is not UTF-8: .* byte 0xff in position 0"):
        texts(tmp_path / "a.parquet")


def test_a_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArchlabError, match=r"a\.parquet: Parquet needs the pyarrow library: pip install pyarrow"):
        texts(file)


def zstd(data: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow", reason="Zstandard needs pyarrow")
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return bytes(out.getvalue())


PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd}
TEXT = "grüne Ente\u2028schwimmt\x0bmal\x85\r\n" * 40


@pytest.mark.parametrize("suffix", PACK)
def test_a_compressed_text_is_read_or_its_damage_named(tmp_path: Path, suffix: str) -> None:
    pack, file = PACK[suffix], tmp_path / f"A.TXT{suffix.upper()}"
    whole = pack(TEXT.encode())
    file.write_bytes(whole)
    assert texts(file) == [TEXT]
    file.write_bytes(whole + pack(b"more"))
    assert texts(file) == [f"{TEXT}more"]
    for damaged in (b"", b"plain text", whole[:3], whole[: len(whole) // 2], whole[:-1], whole + b"behind it"):
        file.write_bytes(damaged)
        with pytest.raises(ArchlabError, match=rf"^{file}: is truncated or damaged, as {suffix} data: .+$"):
            texts(file)


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_json_lines_are_read_in_pieces_or_their_damage_named(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "_PIECE", 7)
    pack, file, rows = PACK[suffix], tmp_path / f"a.jsonl{suffix}", write_json_lines(tmp_path / "plain").read_bytes()
    whole, half = pack(rows), rows.index(b"\n", len(rows) // 2) - 3  # two streams that part a line
    file.write_bytes(whole)
    assert texts(file) == SENTENCES
    between = b"" if suffix == ".zst" else bytes(20)  # which fill a block of a tape
    file.write_bytes(pack(rows[:half]) + between + pack(rows[half:]) + between)
    assert texts(file) == SENTENCES
    for damaged in (b"", b"plain text", whole[:3], whole[: len(whole) // 2], whole[:-1], whole + b"behind it"):
        file.write_bytes(damaged)
        with pytest.raises(ArchlabError, match=rf"^{file}: is truncated or damaged, as {suffix} data: .+$"):
            texts(file)


def test_json_lines_may_be_compressed_twice(tmp_path: Path) -> None:
    file, rows = tmp_path / "a.jsonl.gz.xz", write_json_lines(tmp_path / "plain").read_bytes()
    file.write_bytes(lzma.compress(gzip.compress(rows)))
    assert texts(file) == SENTENCES
    file.write_bytes(lzma.compress(gzip.compress(rows)[:-1]))
    with pytest.raises(ArchlabError, match=rf"^{file}: is truncated or damaged, as \.gz data: "):
        texts(file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.gz.xz"])
def test_json_lines_that_cannot_be_opened_are_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ArchlabError, match=rf"/{name}: cannot be read: not a file, or a broken link$"):
        texts(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(Path, "open", _denied)
    with pytest.raises(ArchlabError, match=rf"/{name}: cannot be read: Permission denied$"):
        texts(tmp_path / name)


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.slow
def test_a_file_of_many_streams_is_read_in_linear_time(tmp_path: Path) -> None:
    # bgzip and pbzip2 write a stream for every block. Copying what is left for each takes 100 s for this file.
    block = gzip.compress(b"x" * 100)
    (tmp_path / "a.txt.gz").write_bytes(block * 60_000 + b"\0" * 100)
    assert len(read_file(tmp_path / "a.txt.gz")) == 6_000_000


def test_zstandard_without_a_library_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstd(b"text"))
    for library in ("compression.zstd", "backports.zstd", "pyarrow"):
        monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "a.jsonl.zst").write_bytes((tmp_path / "a.txt.zst").read_bytes())
    for name in ("a.txt.zst", "a.jsonl.zst"):
        with pytest.raises(ArchlabError, match=rf"{name}: Zstandard needs the pyarrow library: pip install pyarrow$"):
            texts(tmp_path / name)


def test_json_lines_are_detected_by_the_suffix_before_that_of_compression(tmp_path: Path) -> None:
    data = write_json_lines(tmp_path / "plain").read_bytes()
    for name in ("a.JSONL.xz", "a.jsonl-00000-of-00002", "a.json.gz", "a.jsonl.001"):
        suffix = Path(name).suffix
        (tmp_path / name).write_bytes(PACK[suffix](data) if suffix in PACK else data)
        assert texts(tmp_path / name) == SENTENCES


def write_arrow(file: Path, sentences: list[str], *, stream: bool) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="Arrow files need pyarrow")
    table = pyarrow.table({"text": sentences, "id": list(range(len(sentences)))})
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(str(file), table.schema) as out:
        out.write_table(table, max_chunksize=100)
    return file


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_and_streams_are_read_or_their_damage_named(tmp_path: Path, stream: bool) -> None:
    file = write_arrow(tmp_path / "a.ARROW", SENTENCES, stream=stream)
    assert texts(file) == SENTENCES
    whole = file.read_bytes()
    for keep in (0, 5, len(whole) // 2, len(whole) - 1, len(whole) - 8):
        file.write_bytes(whole[:keep])
        with pytest.raises(ArchlabError, match=rf"^{file}: .*(truncated|not an Arrow file)"):
            texts(file)


def zipped(file: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_a_zip_archive_is_its_files(tmp_path: Path) -> None:
    rows = write_json_lines(tmp_path / "plain", SENTENCES[:2]).read_bytes()
    members = {
        "b.txt": b"b",
        "a/train.jsonl.gz": gzip.compress(rows),
        "__MACOSX/b.txt": b"x",
        ".hidden": b"x",
        "README.md": b"",
    }
    file = zipped(tmp_path / "c.ZIP", members)
    found = list(read_documents(file.name, file, "text"))
    assert [name for name, _ in found] == ["c.ZIP/a/train.jsonl.gz:1", "c.ZIP/a/train.jsonl.gz:2", "c.ZIP/b.txt"]
    with pytest.raises(ArchlabError, match=r"c\.zip, x\.png: holds a PNG image rather than UTF-8 text"):
        texts(zipped(tmp_path / "c.zip", {"x.png": b"\x89PNG\r\n\x1a\n"}))
    with pytest.raises(ArchlabError, match=r"c\.zip, x\.zip: is a zip archive in another"):
        texts(zipped(tmp_path / "c.zip", {"x.zip": b""}))
    with pytest.raises(ArchlabError, match=r"c\.zip: holds no files but README\.md$"):
        texts(zipped(tmp_path / "c.zip", {"README.md": b"x", ".hidden": b"x"}))
    with pytest.raises(ArchlabError, match=r"c\.zip: holds no files$"):
        texts(zipped(tmp_path / "c.zip", {".hidden": b"x"}))
    zipped(tmp_path / "e.zip", {"a.txt": b"a", "b.txt": b"b"})
    with zipfile.ZipFile(tmp_path / "e.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.txt", b"another")
    with pytest.raises(ArchlabError, match=r"e\.zip: cannot be read as a zip archive: it holds 'a\.txt' twice$"):
        texts(tmp_path / "e.zip")
    for data in (b"", b"text", file.read_bytes()[:-30], file.read_bytes().replace(b"train", b"trail", 1)):
        (tmp_path / "d.zip").write_bytes(data)
        with pytest.raises(ArchlabError, match=r"d\.zip: cannot be read as a zip archive: "):
            texts(tmp_path / "d.zip")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"some\0text", "is not text: byte 0 at 4, which separates documents"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "holds a PNG image"),
        ("a", b"\x7fELF\2", "holds a program"),
        ("a.txt", b"\x80\x04\x95", "holds a Python pickle"),
        ("a.md", b"PK\x03\x04", "holds a zip archive rather than UTF-8 text; rename it by its type"),
        ("a.txt", gzip.compress(b"x", mtime=0), "holds gzip data"),
        ("a.txt", lzma.compress(b"x"), "holds xz data"),
        ("a.txt", "Ente".encode("utf-16"), "holds UTF-16 text rather than UTF-8 text; convert it to UTF-8"),
        ("a.txt", "Ente".encode("utf-32"), "holds UTF-32 text"),
        ("a.TAR.gz", gzip.compress(b"x", mtime=0), r"\.tar files are not read; unpack it"),
        ("a.7z", b"x", r"\.7z files are not read; unpack it"),
        ("a.pkl", b"I1\n.", r"\.pkl files hold no text"),
        ("a.jsonl", b"\x1f\x8b\x08", "a.jsonl:1: is not UTF-8"),
        ("a.parquet", b"text", "is truncated or not a Parquet file"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArchlabError, match=problem) as caught:
        texts(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_utf8_signature_is_no_text(tmp_path: Path) -> None:
    for name, content in (("a.txt", "Ente"), ("a.jsonl", '{"text": "Ente"}'), ("a.json", '["Ente"]')):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert texts(tmp_path / name) == ["Ente"]
    (tmp_path / "lines").write_bytes("\ufeffa b\r\nc\u2028d\x0be\rf\x85\n\ng".encode())
    assert read_lines(tmp_path / "lines") == ["a b", "c\u2028d\x0be\rf\x85", "", "g"]


def test_lines_of_json_end_at_line_feeds_alone(tmp_path: Path) -> None:
    sentences = ["a\u2028b", "c\x85d\u2029", "e\x0bf\rg"]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in sentences]
    (tmp_path / "a.jsonl").write_bytes("\r\n".join([*rows, "", "  "]).encode())
    assert texts(tmp_path / "a.jsonl") == sentences


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (r'{"text": "a\ud83d"}', r"a\.jsonl:2: the field 'text' holds half of a surrogate pair, \\ud83d at 1"),
        (r'{"text": "a\u0000"}', r"a\.jsonl:2: the field 'text' holds byte 0 at 1, which separates documents"),
        ("null", r"a\.jsonl:2: is not a JSON object but NoneType"),
        ('{"text": null}', r"a\.jsonl:2: the field 'text' is not a string but NoneType"),
        ('{"txt": "a"}', r"a\.jsonl:2: no field 'text'; did you mean 'txt'\?"),
        ('{"text": "a", "n": NaN}', r"a\.jsonl:2: is not JSON: NaN is not a number of JSON"),
        ('{"text": "a", "n": -Infinity}', r"a\.jsonl:2: is not JSON: -Infinity is not a number of JSON"),
        ('{"text": "a", "text": "b"}', r"a\.jsonl:2: is not JSON: the key 'text' appears twice in one object"),
        ('{"text": "a", "n": ' + "[" * 10**5, r"a\.jsonl:2: is nested too deeply"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", r"a\.jsonl:2: is not JSON: .*; JSON of this kind is not read"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(ArchlabError, match=problem):
        texts(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "value",
    [
        [{"text": "a"}, {"text": "b"}],
        ["a", "b"],
        {"data": [{"text": "a"}, {"text": "b"}]},
        {"x": {"text": "a"}, "y": {"text": "b"}},
        {"text": ["a", "b"], "id": [1, 2]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_file_holds_documents(tmp_path: Path, value: object, indent: int | None) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    assert texts(tmp_path / "a.json") == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is not JSON"),
        ("3", "is not a JSON object but int"),
        ('{"txt": "a"}', "no field 'text'; did you mean 'txt'"),
        ('["a", 3]', r"a\.json, document 1: is not a JSON object but int"),
        ('[{"text": "a"}, {"text": 3}]', r"a\.json, document 1: the field 'text' is not a string but int"),
        ('[{"text": "a"}, {"text": "b"', "is not JSON: .*; the file is damaged or truncated"),
        ('{"text": "a"}\n{"text": 3}', r"a\.json:2: the field 'text' is not a string but int"),
    ],
)
def test_a_json_file_of_anything_else_is_named(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ArchlabError, match=problem):
        texts(tmp_path / "a.json")


def test_a_zip_archive_with_a_password_is_named(tmp_path: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", {"a.txt": b"text"}).read_bytes())
    for header in (b"PK\x03\x04", b"PK\x01\x02"):
        data[data.index(header) + (6 if header.endswith(b"\x04") else 8)] |= 1  # the flag of encryption
    (tmp_path / "a.zip").write_bytes(data)
    assert zipfile.ZipFile(io.BytesIO(bytes(data))).infolist()[0].flag_bits & 1
    with pytest.raises(ArchlabError, match=r"a\.zip: cannot be read as a zip archive: .* is encrypted"):
        texts(tmp_path / "a.zip")
