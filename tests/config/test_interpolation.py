"""Interpolations are filled in where the result is of a sensible size."""

from __future__ import annotations

from typing import Any

import pytest

from archlab import ConfigError
from archlab.config.interpolation import interpolate


@pytest.mark.parametrize("link", ["${a%d}${a%d}", ["${a%d}", "${a%d}"], {"x": "${a%d}", "y": "${a%d}"}])
def test_a_chain_that_doubles_at_every_link_is_refused(link: Any) -> None:
    def at(number: int) -> Any:
        if isinstance(link, str):
            return link % (number, number)
        entries = link.items() if isinstance(link, dict) else enumerate(link)
        made = {key: text % number for key, text in entries}
        return made if isinstance(link, dict) else list(made.values())

    tree = {"a0": "text", **{f"a{number}": at(number - 1) for number in range(1, 60)}}
    with pytest.raises(ConfigError, match=r"a\d+.*: stands for more than 1,000,000 characters"):
        interpolate(tree)


def test_others_are_filled_in() -> None:
    tree = {"x": 3, "name": "${x} and ${.x}", "below": {"y": "${..x}", "z": ["${.[1]}", "${x}", r"\${x}"]}}
    assert interpolate(tree) == {"x": 3, "name": "3 and 3", "below": {"y": 3, "z": [3, 3, "${x}"]}}


@pytest.mark.parametrize(
    "tree", [{"a": "${b}", "b": "${a}"}, {"a": "${a}"}, {"a": "${missing}"}, {"a": "${b.c}", "b": 1}]
)
def test_circles_and_what_is_missing_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        interpolate(tree)
