"""A few lines that are redrawn in a terminal or a notebook, drawn from a state when they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from archlab.cli.terminal import SafeConsole, foreign

_ASCII = str.maketrans({"━": "#", "╌": "-", "…": "."})
_PAUSE_S = 0.1
_NARROWEST = 20


class LiveLines:
    """Lines at the bottom of a console, as `draw` returns them for its width; none where they cannot be redrawn.

    Permanent lines are printed above them.
    """

    def __init__(self, console: Console | None, draw: Callable[[int], Sequence[Text]]) -> None:
        self.console, self.draw = console or SafeConsole(), draw
        is_terminal = self.console.is_terminal and not self.console.is_dumb_terminal
        self.is_live = is_terminal or self.console.is_jupyter
        self.live: Live | None = None
        self.last = 0.0

    @property
    def is_started(self) -> bool:
        """Whether the lines are drawn."""
        return self.live is not None

    def _make_live(self) -> Live:
        # Redrawn by the thread that prints alone: rich counts the lines to erase before it draws, and of two threads
        # one would erase the lines of the other.
        # The output of a command stays on standard output while the lines are on standard error.
        is_own = not self.console.stderr
        return Live(self, console=self.console, transient=True, auto_refresh=False, redirect_stdout=is_own)

    def start(self) -> None:
        """Begin to draw; a second start does nothing."""
        if self.is_live and not self.is_started:
            # A new one, as rich's remembers how many lines it drew last, and would erase as many permanent ones.
            self.live = self._make_live()
            self.live.start()

    def stop(self) -> None:
        """Remove the lines, until the next start."""
        if self.live is not None:
            live, self.live = self.live, None
            live.stop()

    @contextmanager
    def hide(self) -> Iterator[None]:
        """Take the lines away for a block that prints by itself."""
        was_started = self.is_started
        self.stop()
        yield
        if was_started:
            self.start()

    def update(self, *, at_once: bool = True) -> None:
        """Draw the lines again; unless `at_once`, not more than a few times a second."""
        if self.live is not None and (at_once or time.monotonic() - self.last >= _PAUSE_S):
            self.last = time.monotonic()
            self.live.refresh()

    def print(self, line: str | Text) -> None:
        """Print a permanent line above the others."""
        say(self.console, line)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines for the console's width."""
        for line in self.draw(max(options.max_width, _NARROWEST)):
            yield _in_ascii(line) if options.ascii_only else line


def say(console: Console, line: str | Text) -> None:
    """Print a line of prose: wrapped between words on a terminal, and whole elsewhere."""
    text = foreign(line) if isinstance(line, str) else line
    console.print(text, highlight=False, soft_wrap=not console.is_terminal or console.is_dumb_terminal)


def _in_ascii(line: Text) -> Text:
    line = line.copy()
    line.plain = line.plain.translate(_ASCII)
    return line
