"""Detection of files that are not text, by name or by content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from archlab.errors import ArchlabError

BOM = b"\xef\xbb\xbf"
# Files beside data in data sets on the Hugging Face Hub and elsewhere.
_NO_DATA = re.compile(
    r"(readme|licen[sc]e|copying|notice|changelog|citation|dataset_?card)(\.(md|txt|rst|html|cff|bib))?"
    r"|licen[sc]e[-_.](mit|apache|bsd|gpl|cc)\S*|dataset_(infos?|dict)\.json|state\.json|_success|thumbs\.db|desktop\.ini"
    r"|.*\.(md5|sha1|sha256|sha512)(sums?)?|(md5|sha\d+)sums?(\.txt)?",
    re.IGNORECASE,
)
_MAX_NAMED = 5  # of the files that a message names
# Content does not always distinguish these from text; the others have known first bytes or a byte 0.
_PACKED = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".7z", ".rar", ".lz4", ".br", ".z", ".lz", ".lzo", ".sz", ".snappy")
_ARRAYS = (".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth", ".ckpt", ".safetensors", ".joblib", ".msgpack")
_BINARY = (*_ARRAYS, ".tfrecord", ".h5", ".hdf5", ".avro", ".orc", ".pdf", ".docx", ".xlsx", ".epub")
# UTF-32 before UTF-16, whose mark it begins with.
_MAGIC = {
    b"\xff\xfe\0\0": "UTF-32 text",
    b"\0\0\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "gzip data",
    b"\xfd7zXZ\0": "xz data",
    **{b"BZh%d1AY&SY" % level: "bzip2 data" for level in range(1, 10)},
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"\x04\x22\x4d\x18": "LZ4 data",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"PAR1": "a Parquet table",
    b"ARROW1": "an Arrow table",
    b"FEA1": "a Feather table",
    b"\x89PNG\r\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
    b"%PDF-": "a PDF document",
    b"\x7fELF": "a program",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF\r\n": "an HDF5 file",
    **{bytes([0x80, protocol]): "a Python pickle" for protocol in range(2, 6)},
}


def is_no_data(name: str) -> bool:
    """Return whether a file is documentation or metadata by name: README, LICENSE, a data set's card, checksums."""
    return _NO_DATA.fullmatch(name.rpartition("/")[2]) is not None


def list_briefly(names: Sequence[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def require_text_name(suffix: str, location: str) -> None:
    """Raise ArchlabError for a suffix of files that hold no text."""
    if suffix in _PACKED:
        raise ArchlabError(f"{location}: {suffix} files are not read; unpack it, or leave it out with task.glob")
    if suffix in _BINARY:
        raise ArchlabError(f"{location}: {suffix} files hold no text; leave it out with task.glob")


def require_text(data: bytes, location: str) -> bytes:
    """Return a text without the signature of UTF-8; raise ArchlabError for data that is not text: binary, or UTF-16."""
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            convert = "convert it to UTF-8" if kind.endswith("text") else "rename it by its type, or leave it out"
            raise ArchlabError(f"{location}: holds {kind} rather than UTF-8 text; {convert}")
    require_no_zeros(data, location)
    return data.removeprefix(BOM)


def require_no_zeros(data: bytes, location: str) -> None:
    """Raise ArchlabError naming the first byte 0 of a text: it would separate documents."""
    zero = data.find(b"\0")
    if zero >= 0:
        raise ArchlabError(f"{location}: is not text: byte 0 at {zero:,}, which separates documents")


def require_utf8(text: bytes, location: str) -> None:
    """Raise ArchlabError naming the first byte that is not UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise ArchlabError(
            f"{location}: is not UTF-8: byte 0x{text[error.start]:02X} at {error.start:,}; convert the file"
        ) from error


def iter_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text that comes in chunks, without the signature of UTF-8; see `split_lines`."""
    begun: list[bytes] = []  # of one line, which may be longer than many chunks
    is_first = True
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            line = b"".join((*begun, end)).removesuffix(b"\r")
            yield line.removeprefix(BOM) if is_first else line
            begun, is_first = [], False
        begun.append(rest)
    if last := b"".join(begun):
        yield (last.removeprefix(BOM) if is_first else last).removesuffix(b"\r")


def split_lines(data: bytes) -> list[bytes]:
    """Return the lines of a text, which end at line feeds, with or without a carriage return, and nowhere else."""
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return lines if lines[-1] else lines[:-1]
