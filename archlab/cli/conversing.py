"""A conversation with a model in a terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import click

from archlab.cli.boundary import line
from archlab.cli.escaping import write_data
from archlab.errors import ArchlabError

if TYPE_CHECKING:
    from archlab.inference.conversation import Conversation

_HELP = "Ctrl-C ends an answer, Ctrl-D the conversation; /restart forgets it"


def converse(conversation: Conversation) -> None:
    """Read texts from the terminal and print the answers, until the end of input."""
    with suppress(ImportError):
        import readline  # noqa: F401  # lines can be edited, and earlier ones fetched
    click.echo(_HELP, err=True)
    while (text := _read()) is not None:
        if text == "/restart":
            conversation.restart()
        elif text.startswith("/"):
            click.echo(f"no command {text.split()[0]!r}; {_HELP}", err=True)
        elif text:
            _print_answer(conversation, text)


def _read() -> str | None:
    try:
        return input("> ")
    except EOFError:
        click.echo()
        return None
    except KeyboardInterrupt:  # while a line is edited: it is given up
        click.echo()
        return ""
    except UnicodeDecodeError as error:  # of a terminal with another encoding
        click.echo(f"archlab: the line is not text in {error.encoding}, the terminal's encoding", err=True)
        return ""


def _print_answer(conversation: Conversation, text: str) -> None:
    try:
        with _record_interrupt() as is_interrupted, closing(conversation.answer(text)) as tokens:  # type: ignore[type-var]
            for token in tokens:
                write_data(token.text)
                if is_interrupted():
                    break
    except ArchlabError as error:
        click.echo(f"archlab: {line(str(error))}", err=True, nl=False)
    click.echo()


@contextmanager
def _record_interrupt() -> Iterator[Callable[[], bool]]:
    """Record Ctrl-C within a block instead of interrupting a call that changes the state; a second one raises."""
    seen = list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    earlier = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, earlier)
