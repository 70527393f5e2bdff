from __future__ import annotations

from typing import Any

import pytest

from archlab import ConfigError
from archlab.config.domains import Choice, Interval, Range, choice, interval, parse_domain


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ([1, 2], choice(1, 2)),
        (["a", {"type": "b"}], Choice(("a", {"type": "b"}))),
        ({"low": 1, "high": 2}, interval(1, 2)),
        ({"low": 1e-4, "high": 1e-2, "log": True}, interval(1e-4, 1e-2, log=True)),
        ({"low": 0, "high": 8, "step": 2}, interval(0, 8, step=2)),
        ({"low": 3, "high": 3}, Interval(3, 3)),
    ],
)
def test_domains_in_yaml(value: Any, domain: Choice | Interval) -> None:
    assert parse_domain(value, "vary.x") == domain


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the list of choices is empty"),
        ([1, 2, 1], "a choice is listed twice"),
        ("auto", "'auto' is neither a list of choices"),
        (3, "3 is neither"),
        (None, "None is neither"),
        ({"low": 1}, "needs two numbers, low and high"),
        ({"low": "1", "high": 2}, "needs two numbers, low and high"),
        ({"low": True, "high": 2}, "needs two numbers, low and high"),
        ({"low": 0, "high": float("inf")}, "needs two numbers, low and high"),
        ({"low": float("nan"), "high": 1}, "needs two numbers, low and high"),
        ({"low": 1, "high": 10**400}, "needs two numbers, low and high"),
        ({"low": 2, "high": 1}, "low 2 is above high 1"),
        ({"low": 0, "high": 1, "log": True}, "a log range needs low above 0 and no step"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "a log range needs low above 0 and no step"),
        ({"low": 1, "high": 2, "log": 1}, "log is 1, not true or false"),
        ({"low": 1, "high": 2, "step": 0}, "step is 0, not a number above 0"),
        ({"low": 1, "high": 2, "min": 0}, "unknown key 'min' of a range"),
    ],
)
def test_invalid_domains(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_domain(value, "vary.x")
    assert str(caught.value).startswith("vary.x: ")
    assert message in str(caught.value)


def test_ranges() -> None:
    assert 0 in Range(low=0)
    assert 0 not in Range(low=0, above=True)
    assert 2 not in Range(low=0, high=1)
    assert str(Range(low=0, above=True)) == "above 0"
    assert str(Range(low=0, high=1)) == "at least 0 and at most 1"
