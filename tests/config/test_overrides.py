from __future__ import annotations

import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_yaml_text import TEXTS, VALUES, exactly, many

from archlab import ConfigError
from archlab.config.overrides import format_override, parse_override
from archlab.text import shell_path, shell_quote


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/vol #2", "/vol #2"),
        ("#2", "#2"),
        (" /vol ", " /vol "),
        ("a: b", "a: b"),
        ("a\nb", "a\nb"),
        ("a=b", "a=b"),
        ("*a", "*a"),
        ("&a b", "&a b"),
        ("!tag", "!tag"),
        ("%x", "%x"),
        ("@x", "@x"),
        ("- a", "- a"),
        ("0100", "0100"),
        ("=", "="),
        ("", None),
        ("null", None),
        ("1e-3", 1e-3),
        (" 12 ", 12),
        ("off", False),
        ("[1, a b]", [1, "a b"]),
        ("{type: s4d, num_dims: 8}", {"type": "s4d", "num_dims": 8}),
        ("'1e5'", "1e5"),
        ('"a\\tb"', "a\tb"),
        ("${train.steps}", "${train.steps}"),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert exactly(parse_override(f"it={text}")) == exactly(("it", value))


@pytest.mark.slow
@many
@given(VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    assert exactly(parse_override(format_override("a.b[0]", value))) == exactly(("a.b[0]", value))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "it=[a] #2",
            "it: '[a] #2' cannot be read: more text follows the value that begins with [; for a text, write ",
        ),
        ("it='a' b", "cannot be read: line 1, column 5"),
        ("it='a': b", "more text follows the value that begins with '"),
        ("it=[draft] notes", "for a text, write 'it=\"[draft] notes\"'"),
        ("it=[/vol #2]", "cannot be read: "),
        ("it={a: 1, a: 2}", "found duplicate key a"),
        ("it=" + "[" * 5000, "nested more than"),
        ("it=[*a]", "found undefined alias 'a'"),
        ("=1", "is not an override; write path=value"),
        ("it", "is not an override; write path=value"),
    ],
)
def test_values_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


WORDS = TEXTS.map(lambda text: "".join(c for c in text if c != "\0" and not "\ud800" <= c <= "\udfff"))


@pytest.mark.slow
@many
@given(WORDS)
def test_words_of_a_command_are_one_word_of_printable_text(text: str) -> None:
    quoted = shell_quote(text)
    assert "\x1b" not in quoted
    assert "\n" not in quoted
    if not quoted.startswith("$"):
        assert shlex.split(quoted) == [text]


def test_bash_reads_words_as_they_were() -> None:
    words = ["a b", "it's", "\x1b[31m", "a\nb", "\udcff\x85", '$HOME `x` \\ "q"', "\u202eabc", "'\x07'", "é", "", "*"]
    command = f"printf '%s\\0' {' '.join(map(shell_quote, words))}"
    printed = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert printed.decode("utf-8", "surrogateescape").split("\0")[:-1] == words


def test_a_path_is_no_option() -> None:
    assert shell_path("-x y") == "'./-x y'"
    assert shell_path("runs/a") == "runs/a"


@pytest.mark.slow
@many
@given(st.floats(allow_nan=False))
def test_numbers_are_exact(number: float) -> None:
    assert exactly(parse_override(format_override("it", number))[1]) == exactly(number)
