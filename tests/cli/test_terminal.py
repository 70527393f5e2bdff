"""Foreign text on a terminal: shown and never obeyed."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Tiny, Write
from rich.table import Table

from archlab import ArchlabError, ConfigError, api
from archlab.cli import main as command_line
from archlab.cli.boundary import LineFormatter
from archlab.cli.escaping import EscapingStream, escaped_streams, write_data
from archlab.cli.listing import experiments_table
from archlab.cli.main import cli
from archlab.cli.progress import ProgressBar
from archlab.cli.terminal import SafeConsole, foreign, paragraph
from archlab.text import HIDDEN, visible

HOSTILE = "a\x1b[31m\x07\x9b2J\u202eb\r\x7f[red]c[/] :smile: \u2066d"
SHOWN = r"a\x1b[31m\x07\x9b2J\u202eb\r\x7f[red]c[/] :smile: \u2066d"


def is_safe(text: str) -> bool:
    return not HIDDEN.search(text.replace("\n", ""))


def test_every_hidden_character_is_escaped_once() -> None:
    text = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2070), 0xFEFF, 0xD800, 0xDFFF, 0xE0001]))
    assert is_safe(visible(text).replace("\n", "?"))
    assert "\n" not in visible(text)
    assert visible(visible(text)) == visible(text)
    assert visible("é 日本 😀 👨\u200d👩 a\\b") == "é 日本 😀 👨\u200d👩 a\\b"


def test_a_console_shows_text_as_it_is() -> None:
    console = SafeConsole(file=io.StringIO(), width=200, force_terminal=False)
    table = Table(title=HOSTILE)
    table.add_column(foreign(HOSTILE))
    table.add_row(HOSTILE)
    table.add_row(foreign(HOSTILE + "\nnext"))
    console.print(table, HOSTILE, paragraph(f"{HOSTILE}\n two"))
    text = console.file.getvalue()
    assert is_safe(text)
    assert SHOWN + r"\nnext" in text
    assert text.count("[red]c[/]") == 6


def test_colors_are_the_consoles_own(capsys: pytest.CaptureFixture[str]) -> None:
    with escaped_streams():
        console = SafeConsole(width=200, force_terminal=True, color_system="standard")
        console.print(foreign(HOSTILE, "red"))
        print(HOSTILE)
    first, second, _ = capsys.readouterr().out.split("\n")
    assert first == f"\x1b[31m{SHOWN}\x1b[0m"
    assert second == SHOWN


def test_streams_are_given_back() -> None:
    import sys

    before = sys.stdout, sys.stderr
    with escaped_streams():
        assert isinstance(sys.stdout, EscapingStream)
        with escaped_streams():
            assert not isinstance(sys.stdout.stream, EscapingStream)
    assert (sys.stdout, sys.stderr) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "written"), [(Terminal, "a\n\tb\\x1b"), (io.StringIO, "a\n\tb\x1b")])
def test_a_models_text_is_raw_in_a_pipe_alone(
    stream: type[io.StringIO], written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stream()
    monkeypatch.setattr("sys.stdout", out)
    with escaped_streams():
        write_data("a\n\tb\x1b")
    assert out.getvalue() == written


@pytest.mark.slow
def test_show(tiny: Tiny, write: Write) -> None:
    file = write(replace(tiny(), description=f"one\n{HOSTILE}").to_yaml())
    for options in ([], ["--yaml"], ["--json"]):
        result = CliRunner().invoke(cli, ["show", str(file), *options])
        assert result.exit_code == 0
        assert is_safe(result.output)
    shown = CliRunner().invoke(cli, ["show", str(file)]).output
    assert shown.startswith("tiny  one " + SHOWN.replace("\\r", " "))  # a description is one paragraph


def test_the_bar_of_a_hostile_run(tiny: Tiny) -> None:
    output = io.StringIO()
    with ProgressBar(SafeConsole(file=output, force_terminal=True, width=200, color_system=None)) as bar:
        bar.on_start(replace(tiny(), name="x[/]\x07\x1b]0;title\x07"), 3)
        bar.on_step({"step": 4, "loss": 1.0, "tokens_per_s": 1.0})
    assert r"x[/]\x07\x1b]0;title\x07" in output.getvalue()
    assert "\x07" not in output.getvalue()


@pytest.mark.parametrize(
    "error", [ArchlabError(f"{HOSTILE}\nnext"), ConfigError(HOSTILE, HOSTILE, f"{HOSTILE}\n.yaml")]
)
def test_errors_are_one_line_of_what_is_shown(
    error: ArchlabError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_safe(str(error))
    assert "\n" not in str(error)

    def fail(name: str, overrides: object) -> None:
        raise error

    monkeypatch.setattr(api, "load", fail)
    monkeypatch.setattr("sys.argv", ["archlab", "show", "x"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert SHOWN in capsys.readouterr().err


def test_a_long_value_leaves_an_error_readable() -> None:
    message = str(ConfigError("task.path", f"{'x' * 100_000!r} is not a file", "a.yaml"))
    assert len(message) <= 1000
    assert message.startswith("a.yaml: task.path: 'xxx")
    assert message.endswith("' is not a file")


def test_arguments_of_an_unknown_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["archlab", "sho\x1b[2Jw", "\u202e"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert is_safe(capsys.readouterr().err)


def test_records_of_the_log_are_one_line() -> None:
    record = logging.LogRecord("archlab.storage", logging.WARNING, "", 0, "damaged: %s", ("a\n\x1b[0m",), None)
    assert LineFormatter().format(record) == r"archlab: damaged: a \x1b[0m"


def test_descriptions_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.yaml"
    file.write_text('description: "x [/] \\e[31m \\n y"\n')
    monkeypatch.setattr("archlab.cli.listing.shipped_files", lambda folder: {"a[/]\x1b": file})
    console = SafeConsole(file=io.StringIO(), width=80)
    console.print(experiments_table("experiments", "archlab show NAME"))
    assert r"a[/]\x1b  x [/] \x1b[31m y" in " ".join(console.file.getvalue().split(" ")).replace("   ", "  ")
