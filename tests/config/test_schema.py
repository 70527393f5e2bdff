from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archlab import ConfigError, Count, Fraction, NonNegative, Positive
from archlab.config.domains import Range
from archlab.config.schema import (
    REQUIRED,
    UnionMember,
    coerce,
    knobs_of,
    reject_unknown,
    type_name,
    union_members,
    wiring_of,
)


class Part:
    def __init__(self, dim: int, index: int, *, size: Count, rate: Fraction = 0.5, name: str | None = None) -> None:
        pass


def problem(value: Any, expected: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        coerce(value, expected, "a.b")
    assert caught.value.path.startswith("a.b")
    return caught.value.problem


def test_a_signature_is_the_schema() -> None:
    knobs = knobs_of(Part.__init__)
    assert [(knob.name, knob.default) for knob in knobs.values()] == [("size", REQUIRED), ("rate", 0.5), ("name", None)]
    assert knobs["size"].type_name == "a whole number at least 1"
    assert wiring_of(Part.__init__) == ["dim", "index"]


@pytest.mark.parametrize(
    ("value", "expected", "result"),
    [
        (3, Count, 3),
        (3.0, Count, 3),
        (1e3, Count, 1000),
        (2, Positive, 2.0),
        (0, NonNegative, 0.0),
        (1, Fraction, 1.0),
        (None, Count | None, None),
        (4, Count | None, 4),
        ("x", int | str, "x"),
        ("on", Literal["on", "off"], "on"),
        (True, Literal["on", "off"], "on"),
        (False, Literal["on", "off"], "off"),
        (2, Literal[1, 2], 2),
        ([1, 2.0], Sequence[int], [1, 2]),
        ((), list[str], []),
        (True, bool, True),
    ],
)
def test_values_that_fit(value: Any, expected: Any, result: Any) -> None:
    checked = coerce(value, expected, "a.b")
    assert checked == result
    assert type(checked) is type(result)


@pytest.mark.parametrize(
    ("value", "expected", "message"),
    [
        (0, Count, "0 is not at least 1"),
        (2**41, Count, f"{2**41} is not at most"),
        (1.5, Count, "1.5 is not a whole number"),
        (True, Count, "True is not a whole number"),
        ("3", Count, "'3' is not a whole number"),
        (None, Count, "None is not a whole number"),
        (float("nan"), Count, "nan is not a whole number"),
        (float("inf"), Positive, "inf is not a finite number"),
        (float("nan"), Fraction, "nan is not a finite number"),
        (10**400, Positive, "is not a finite number"),
        (10**400, Count, "is not at most"),
        (0, Positive, "0.0 is not above 0"),
        (2, Fraction, "2.0 is not at most 1"),
        (-1, Fraction, "-1.0 is not at least 0 and at most 1"),
        (1, bool, "1 is not true or false"),
        (1, str, "1 is not a text"),
        ("one", Literal["on", "off"], "'one' is not one of its values; did you mean 'on'?"),
        (1, Literal["1"], "1 is not one of its values"),
        (True, Literal[1, 2], "is not one of its values"),
        ("ab", list[str], "'ab' is not a list"),
        ([1, "x"], list[int], "'x' is not a whole number"),
        ([], int | str, "[] is not a text"),
        ({}, Count | None, "{} is not a whole number"),
        (3, dict[str, int], "3 is not a mapping of texts to a whole number"),
        ({1: 2}, dict[str, int], "{1: 2} is not a mapping of texts to a whole number"),
        ({"a": "b"}, dict[str, int], "'b' is not a whole number"),
    ],
)
def test_values_that_do_not(value: Any, expected: Any, message: str) -> None:
    assert message in problem(value, expected)


def test_an_entry_of_a_list_is_named_by_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        coerce([1, 0], list[Count], "a.b")
    assert str(caught.value) == "a.b[1]: 0 is not at least 1"


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
ANYTHING |= st.lists(ANYTHING, max_size=2) | st.dictionaries(st.text(max_size=2), ANYTHING, max_size=2)


@given(value=ANYTHING, expected=st.sampled_from([Count, Positive, Count | None, str, bool, list[int], Literal["a", 1]]))
def test_a_value_is_checked_once_for_all(value: Any, expected: Any) -> None:
    try:
        checked = coerce(value, expected, "a.b")
    except ConfigError:
        return
    assert coerce(checked, expected, "a.b") == checked


def test_names() -> None:
    reject_unknown({"size": 1}, ["size", "rate"], "a")
    with pytest.raises(ConfigError, match=r"^a: unknown knob 'sise' of 'part'; did you mean 'size'\?$") as caught:
        reject_unknown({"sise": 1}, ["size", "rate"], "a", owner="part")
    assert caught.value.key == "sise"
    with pytest.raises(ConfigError, match=r"^a: unknown key 7; known: rate, size$"):
        reject_unknown({7: 1}, ["size", "rate"], "a")


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (Count | None, "a whole number at least 1 or null"),
        (Fraction, "a number at least 0 and at most 1"),
        (Positive, "a number above 0"),
        (Literal["a", "b"], "one of a, b"),
        (list[str], "a list of a text"),
        (bool, "true or false"),
        (dict[str, Count] | None, "a mapping to a whole number at least 1 or null"),
    ],
)
def test_types_in_words(expected: Any, words: str) -> None:
    assert type_name(expected).startswith(words)


def test_nested_unions_are_flattened_with_the_ranges_of_each_member() -> None:
    small = Range(high=9)
    expected = Annotated[Annotated[int, Range(low=2)] | float, small] | Literal["auto"] | None
    assert union_members(expected) == [
        UnionMember(int, (Range(low=2), small)),
        UnionMember(float, (small,)),
        UnionMember(Literal["auto"]),
        UnionMember(type(None)),
    ]
    assert coerce(2.5, expected, "a") == 2.5
    with pytest.raises(ConfigError, match="'never' is not one of its values"):
        coerce("never", expected, "a")
