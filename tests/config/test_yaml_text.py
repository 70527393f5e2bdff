"""What one function writes, the other reads: arbitrary texts and numbers, in files and on one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from conftest import THOROUGH
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archlab import ConfigError
from archlab.config.interpolation import escape, interpolate
from archlab.config.yaml_reader import MAX_DEPTH, parse_inline, parse_yaml
from archlab.config.yaml_writer import format_inline, format_yaml

# Characters that mean something to YAML, to OmegaConf, to a terminal or to a page, rather often one after another.
SIGNS = " \n\t\r#:-?[]{}&*!|>'\"%@`,.~=<\\$/_+0189aefnxyzE\x00\x1b\x7f\x85\xa0\u2028\u202e\ufeff\ud800\udcffé😀"
WORDS = [
    "null",
    "yes",
    "off",
    "1e5",
    "0100",
    "0o17",
    "1_000",
    "12:30:45",
    "2001-01-01",
    ".5",
    "1.",
    ".nan",
    "<<",
    "=",
    "???",
    "${x}",
    "\\${x}",
    "${",
    "!tag",
    "&a",
    "*a",
    "[",
    "{}",
]
TEXTS = st.text(st.sampled_from(SIGNS), max_size=12) | st.lists(st.sampled_from(WORDS), max_size=3).map("".join)
TEXTS |= st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = TEXTS | st.integers() | st.floats() | st.booleans() | st.none()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
many = settings(max_examples=1000 if THOROUGH else 60, deadline=None)


def exactly(value: Any) -> str:
    """Return a text that distinguishes 1 from 1.0 and true, and 0.0 from -0.0, but not NaNs from each other."""
    return repr(value)


@pytest.mark.slow
@many
@given(VALUES)
@example("x" * 5000)
@example(" ".join(["word"] * 500))
@example(2**80)
def test_what_is_written_is_read(value: Any) -> None:
    assert exactly(parse_yaml(format_yaml({"it": value}))) == exactly({"it": value})
    line = format_inline(value)
    assert line.isprintable() or "\n" not in line
    assert exactly(parse_inline(line)) == exactly(value)


@pytest.mark.slow
@many
@given(VALUES)
def test_interpolation_leaves_what_was_escaped(value: Any) -> None:
    assert exactly(interpolate({"it": escape(value), "x": 1})["it"]) == exactly(value)


@pytest.mark.slow
@many
@given(TEXTS)
def test_other_readers_of_yaml_read_the_same_texts(text: str) -> None:
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert yaml.safe_load(format_yaml({"it": text})) == {"it": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0100", "0100"),
        ("08", "08"),
        ("1_000", 1000),
        ("1__0", "1__0"),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("0x1F", 31),
        ("0o17", 15),
        ("+1", 1),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1e5", 1e5),
        ("1E-3", 1e-3),
        (".inf", math.inf),
        ("nan", "nan"),
        ("=", "="),
        ("<<", "<<"),
        ("off", False),
        ("~", None),
        ("!!str 1e5", "1e5"),
        ("!!float 1", 1.0),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    assert exactly(parse_yaml(f"it: {text}")["it"]) == exactly(value)


def test_a_merge_key_gives_what_the_mapping_itself_does_not() -> None:
    text = "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\nboth: {<<: [*one, *two], c: 3}"
    data = parse_yaml(text)
    assert data["both"] == {"a": 1, "b": 1, "c": 3}
    assert parse_yaml("a: &it [1]\nb: *it")["a"] is not parse_yaml("a: &it [1]\nb: *it")["b"]


def test_aliases_share_nothing() -> None:
    data = parse_yaml("a: &it {x: [1]}\nb: *it")
    data["a"]["x"].append(2)
    assert data["b"] == {"x": [1]}


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [[[[*a{n - 1}]]]]\n" for n in range(1, 400))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\n'a': 3", "line 3, column 1: found duplicate key a; the first is in line 1"),
        ("a: {b: 1, c: 2, b: 1}", "line 1, column 17: found duplicate key b; the first is in line 1"),
        ("a: &a [*a]", "line 1, column 8: the alias 'a' contains itself"),
        (LAUGHS, "aliases written out"),
        (MERGED, "aliases written out"),
        (CHAIN, "aliases written out"),
        ("[" * 10_000, f"line 1, column {MAX_DEPTH + 1}: is nested more than {MAX_DEPTH} deep"),
        ("{a: " * 10_000, f"is nested more than {MAX_DEPTH} deep"),
        ("".join(f"{' ' * n}a:\n" for n in range(200)), f"is nested more than {MAX_DEPTH} deep"),
        ("? [a]\n: 1", "line 1, column 3: a key is not a text"),
        ("{<<: 1}", "line 1, column 6: << merges a mapping or a list of mappings"),
        ("a: !!python/object:os.system x", "the tag '!!python/object:os.system' is not one of"),
        ("a: !mine x", "line 1, column 4: the tag '!mine' is not one of"),
        ("a: !!set {b}", "the tag '!!set' is not one of"),
        ("a: !!bool maybe", "line 1, column 4: 'maybe' is no !!bool"),
        ("a: !!int 0100", "line 1, column 4: '0100' is no !!int"),
        ("a: !!null b", "line 1, column 4: 'b' is no !!null"),
        ("a: " + "9" * 5000, "line 1, column 4: '9999"),
        ("a: 1\nb: \x1b", "line 2: the character U+001B has to be written as an escape in double quotes"),
        (b"a: 1\nb: \xff", "line 2: the byte 0xff is no UTF-8"),
        ('a: "\\U00110000"', "cannot be read: "),
        ("a: 1\n---\nb: 1", "line 2, column 1: "),
        ("a: *b", "line 1, column 4: found undefined alias 'b'"),
    ],
)
def test_texts_that_are_refused(text: str | bytes, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_text() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: 1") == parse_yaml("a: 1".encode("utf-16")) == {"a": 1}
