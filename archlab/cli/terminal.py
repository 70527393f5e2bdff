"""Consoles on which foreign text is only text: no markup, no emoji codes, no control characters."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from archlab.cli.escaping import unwrap
from archlab.text import visible

WIDTH_WHERE_NO_TERMINAL = 110


class SafeConsole(Console):
    """A console that escapes hidden characters; only a `Text` has styles, brackets in a string are brackets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    @property
    def file(self) -> Any:
        """The stream to write to, below the one that would escape the console's own colors."""
        return unwrap(super().file)

    @file.setter
    def file(self, new_file: Any) -> None:
        self._file = new_file

    def on_broken_pipe(self) -> None:
        """Let a reader that has left end the command: rich itself would exit with 1 in the middle of a run."""
        raise  # noqa: PLE0704 - called while BrokenPipeError is handled

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of something to print, escaped where nobody has called `foreign` for it."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))


def make_console() -> SafeConsole:
    """Return the console of a command: as wide as the terminal, and of one width elsewhere."""
    return SafeConsole(width=None if sys.stdout.isatty() else WIDTH_WHERE_NO_TERMINAL)


def foreign(text: object, style: str = "") -> Text:
    """Return foreign text for a cell or a line, on one line and without markup."""
    # Here and not in `render`: a table measures its cells before, and rich drops some characters instead of escaping.
    return Text(visible(str(text)), style)


def paragraph(text: str) -> Text:
    """Return a description on one line, wherever YAML has wrapped it."""
    return foreign(" ".join(text.split()))
