"""The lines of metrics.jsonl: read, checked one by one, and compared with the checkpoint that a run resumes from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from archlab.config.strict_json import parse_object
from archlab.errors import ArchlabError
from archlab.storage.json_values import is_count, is_finite

NAME = "metrics.jsonl"
_log = logging.getLogger(__name__)
# Fields of a record about the machine, beside its speed; they differ from run to run.
OF_THE_MACHINE = ("tokens_per_s_per_device", "mfu", "memory_bytes", "data_wait_s")
_NUMBERS = ("loss", "lr", "grad_norm", "tokens_per_s", "tokens", *OF_THE_MACHINE)
_ADVICE = "restore it, or remove it to continue without the records before"


def read_log(file: Path) -> list[dict[str, Any]]:
    """Return the records of a log, without a last line that has no end; none if there is no file.

    Raises ArchlabError naming the line for any other line that is not a record, or goes back to an earlier step.
    """
    return _records(_read(file), file)


def read_kept(file: Path, step: int, expected: Mapping[str, Any] | None) -> bytes:
    """Return the lines of a log up to a checkpoint's step; raise ArchlabError if lines before it are gone or changed.

    `expected` has size and SHA-256 of the log when the checkpoint was saved; runs of archlab 0.1 have none.
    """
    content, size = _read(file), 0
    if expected is not None:
        if not file.is_file():
            _log.warning("%s: is missing; the run continues without the records up to step %d", file, step)
            return b""
        size = _require_beginning(content, file, step, expected)
    rest = _kept_lines(content[size:], file, step, strict=expected is None)
    return content[:size] + b"".join(rest)


def _require_beginning(content: bytes, file: Path, step: int, expected: Any) -> int:
    if not isinstance(expected, Mapping) or not is_count(expected.get("bytes")):
        raise ArchlabError(f"{file}: the checkpoint of step {step} does not have its size and checksum")
    size = int(expected["bytes"])
    if hashlib.sha256(content[:size]).hexdigest() == expected.get("sha256"):
        return size
    records = _records(content[:size], file)  # names a line that is damaged
    last = records[-1]["step"] if records else 0
    problem = f"ends after step {last}" if len(content) < size else "was changed"
    raise ArchlabError(f"{file}: {problem}, and the checkpoint of step {step} was saved with it whole; {_ADVICE}")


def _kept_lines(content: bytes, file: Path, step: int, *, strict: bool) -> Iterator[bytes]:
    """Yield the lines up to a step; lines after the known checksum may be incomplete, and are written again."""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            if _record(line, f"{file}:{number}")["step"] <= step:
                yield line + b"\n"
        except ArchlabError:
            if strict:
                raise
            return


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise ArchlabError(f"{file}: cannot be read: {error.strerror}") from error


def _records(content: bytes, file: Path) -> list[dict[str, Any]]:
    # The last piece is empty, or a line without its end, which a running or killed process leaves.
    records = [_record(line, f"{file}:{number}") for number, line in enumerate(content.split(b"\n")[:-1], 1)]
    for number, (before, after) in enumerate(pairwise(records), 2):
        if after["step"] < before["step"]:
            raise ArchlabError(f"{file}:{number}: goes back from step {before['step']} to {after['step']}")
    return records


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = parse_object(line)
    except (OSError, ValueError) as error:
        raise ArchlabError(f"{place}: not a record of metrics") from error
    if not is_count(record.get("step")):
        raise ArchlabError(f"{place}: not a record of metrics")
    for name, value in record.items():
        if (name in _NUMBERS or name.startswith("val_")) and value is not None and not is_finite(value):
            raise ArchlabError(f"{place}: {name} is {value!r:.40} and not a finite number")
        if isinstance(value, dict | list):
            raise ArchlabError(f"{place}: {name} is not one value")
    return record
