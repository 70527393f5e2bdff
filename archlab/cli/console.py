"""The console of a command, imported when it is needed: `--help` and typos are answered without rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archlab.cli.terminal import SafeConsole


def make_console() -> SafeConsole:
    """Return the console of a command; see `archlab.cli.terminal.make_console`."""
    from archlab.cli.terminal import make_console

    return make_console()
