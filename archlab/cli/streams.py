"""Standard streams that are closed, full, gone, or of an encoding that lacks characters."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from archlab.errors import is_unicode

_MODES = {0: os.O_RDONLY, 1: os.O_WRONLY, 2: os.O_WRONLY}


def prepare_streams() -> None:
    """Replace closed streams by the null device, and have characters that an encoding lacks escaped."""
    for number, mode in _MODES.items():
        with suppress(OSError):
            os.fstat(number)
            continue
        # Otherwise the next file that is opened, a database perhaps, takes the number, and output would go there.
        os.open(os.devnull, mode)  # takes the lowest free number
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open for as long as the process
    sys.stdout, sys.stderr = (_prepare(stream) for stream in (sys.stdout, sys.stderr))


def _prepare(stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed when Python started
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def decode_argument(text: str) -> str:
    """Return a command-line argument that is UTF-8 in a locale of another encoding; others are returned as they are."""
    if is_unicode(text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeDecodeError:
        return text


def can_print(text: str) -> bool:
    """Return whether standard output's encoding has every character of a text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def abandon(stream: TextIO) -> None:
    """Redirect a stream that cannot be written to the null device, so that Python exits without an error."""
    with suppress(OSError, ValueError):  # io.UnsupportedOperation is both
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
