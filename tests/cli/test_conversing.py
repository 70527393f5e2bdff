"""A conversation in a real terminal: lines are edited, answers ended, and what cannot be said is named."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from terminal_helpers import run_in_terminal, screen

from archlab.cli import conversing
from archlab.cli.main import main
from archlab.inference.conversation import Conversation
from archlab.inference.prompts import Settings
from archlab.inference.text_model import TextModel
from archlab.text import visible

HELP = "Ctrl-C ends an answer, Ctrl-D the conversation; /restart forgets it"
WIDTH = 4000  # no line is wrapped
ENTER, CTRL_C, CTRL_D = b"\n", b"\x03", b"\x04"


def typed(*lines: bytes) -> list[tuple[str, bytes]]:
    """Type each line at a prompt of its own, then end the conversation."""
    return [("\n> ", line) for line in (*lines, CTRL_D)]


def generate(*arguments: str) -> Callable[[], None]:
    """Return the command in this process, which has imported torch already."""

    def command() -> None:
        os.environ["ARCHLAB_TUNE"] = "off"
        torch.set_num_threads(1)  # of several, those of the process that was copied are not in the copy
        sys.argv = ["archlab", "generate", *arguments]
        main()

    return command


def converse(folder: Path, *arguments: str, keys: Sequence[tuple[str, bytes]]) -> str:
    """Return what a person sees of a conversation."""
    return "\n".join(screen(run_in_terminal(generate(*arguments), folder, WIDTH, keys=keys), WIDTH)).lstrip("\n")


def here(trained: Path, num_tokens: int) -> Conversation:
    """Return the same conversation without a terminal."""
    return Conversation(TextModel.load(trained), Settings(max_new_tokens=num_tokens, seed=3))


def as_shown(conversation: Conversation, text: str) -> str:
    """Return an answer as a terminal shows it."""
    answer = visible("".join(token.text for token in conversation.answer(text)), keep="\n\t")
    return "\n".join(screen(f"> {text}\n{answer}\n", WIDTH))


@pytest.mark.slow
def test_it_goes_on_and_begins_anew(trained: Path, tmp_path: Path) -> None:
    lines = (b"one", b"", b"two", b"/forget it", b"/restart", b"one")
    options = ("--tokens", "7", "--seed", "3", "--no-compile")
    written = converse(tmp_path, str(trained), *options, keys=typed(*(line + ENTER for line in lines)))
    conversation = here(trained, 7)
    first, second = (as_shown(conversation, text) for text in ("one", "two"))
    refused = f"> /forget it\nno command '/forget'; {HELP}\n> /restart\n"
    assert written == f"{HELP}\n{first}>\n{second}{refused}{first}>\n"


def test_what_cannot_be_said_is_one_line_and_the_conversation_goes_on(trained: Path, tmp_path: Path) -> None:
    keys = typed(b"one" + ENTER, b"/restart" + ENTER)
    written = converse(tmp_path, str(trained), "--tokens", "2046", keys=keys)
    assert written.startswith(f"{HELP}\n> one\narchlab: a prompt of 3 tokens and 2046 new ones are more than the 2048 ")
    assert written.endswith("ask for fewer with --tokens\n> /restart\n>\n")


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_or_a_line_and_not_the_conversation(trained: Path, tmp_path: Path) -> None:
    begin = visible("".join(token.text for token in here(trained, 4).answer("one")), keep="\n\t")[0]
    keys = [("\n> ", b"one" + ENTER), (f"\n{begin}", CTRL_C)]
    keys += [("\n> ", b"unsaid"), ("d", CTRL_C), *typed(b"/x" + ENTER)]
    options = ("--tokens", "2000", "--seed", "3", "--no-compile")
    written = converse(tmp_path, str(trained), *options, keys=keys)
    answer, _, rest = written.removeprefix(f"{HELP}\n> one\n").partition("\n>")
    assert answer.startswith(begin)
    assert len(answer) < 1000  # of 2,000 tokens
    assert rest.startswith(" unsaid\n> /x\nno command '/x'")
    assert rest.endswith("\n>\n")


def test_a_second_ctrl_c_interrupts_what_does_not_end() -> None:
    with conversing._record_interrupt() as is_interrupted:
        assert not is_interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_a_line_that_is_no_text_is_refused_where_lines_are_not_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")  # as in most locales
    script = "import sys; sys.modules['readline'] = None; from archlab.cli.conversing import converse; converse(None)"
    keys = typed(b"caf\xe9" + ENTER, b"/x" + ENTER)
    written = run_in_terminal([sys.executable, "-c", script], tmp_path, WIDTH, keys=keys)
    lines = [line for line in screen(written, WIDTH) if line]
    assert lines == [
        HELP,
        r"> caf\xe9",
        "archlab: the line is not text in utf-8, the terminal's encoding",
        "> /x",
        f"no command '/x'; {HELP}",
        ">",
    ]


@pytest.mark.parametrize("option", [("--logprobs",), ("--save-state", "state")])
def test_options_that_a_conversation_does_not_have(option: Sequence[str], trained: Path, tmp_path: Path) -> None:
    written = run_in_terminal(generate(str(trained), *option), tmp_path, WIDTH, status=2)
    assert written.strip() == "archlab: --logprobs and --save-state are of a --prompt, not of a conversation"
