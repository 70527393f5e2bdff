"""Standard output and error of commands, on which the hidden characters of foreign text are escaped.

Names, descriptions, reasons, file names and a tokenizer's texts come from strangers, and a terminal obeys what it is
sent. So both streams are wrapped while a command runs; consoles, whose colors are control characters too, escape their
text themselves and write below the wrapper (`archlab.cli.terminal`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from archlab.text import visible

_LINES = "\n\t"


class EscapingStream:
    """A text stream that escapes hidden characters, lines and tabs excepted, in the text that it forwards."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text with its hidden characters escaped."""
        self.stream.write(visible(text, keep=_LINES))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)


class EscapingGroup(click.Group):
    """A group of commands that print hidden characters as escapes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with escaped_streams():
            return super().invoke(ctx)


@contextmanager
def escaped_streams() -> Iterator[None]:
    """Escape hidden characters in all that is written to standard output and error within the block."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _wrap(out), _wrap(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def _wrap(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, EscapingStream) else EscapingStream(stream)


def unwrap(stream: Any) -> Any:
    """Return the stream below an escaping one, or the stream itself."""
    return stream.stream if isinstance(stream, EscapingStream) else stream


def write_data(text: str) -> None:
    """Write a model's text to standard output: as it is into a pipe or a file, escaped on a terminal."""
    stream = sys.stdout if sys.stdout.isatty() else unwrap(sys.stdout)
    stream.write(text)
    stream.flush()
