"""Two files of one run are known to belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archlab import ArchlabError
from archlab.storage.identity import content_hash, identity_in, new_id, require_same

FILE, OTHER = Path("run/final"), Path("run/run.json")


def test_the_order_of_keys_does_not_matter_but_values_and_types_do() -> None:
    assert content_hash({"a": 1, "b": [2.5, None]}) == content_hash({"b": [2.5, None], "a": 1})
    assert len({content_hash(data) for data in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": True}, {"a": [1]}, {})}) == 6
    assert new_id() != new_id()


def test_parts_that_both_have_must_agree() -> None:
    require_same({"run": "1"}, FILE, {"run": "1", "data": "d"}, OTHER)
    require_same({}, FILE, {"run": "1"}, OTHER)
    require_same({"run": "1"}, FILE, {}, OTHER)
    message = r"^run/final: its data is not that of run/run\.json \(e and not d\); leave it$"
    with pytest.raises(ArchlabError, match=message):
        require_same({"run": "1", "data": "e"}, FILE, {"run": "1", "data": "d"}, OTHER, "leave it")


@pytest.mark.parametrize("value", [1, None, [], "x", {"run": 1}, {"run": None}])
def test_what_is_no_identity_is_named(value: Any) -> None:
    assert identity_in({}, FILE) == {}
    with pytest.raises(ArchlabError, match="run/final: identity is not a mapping"):
        identity_in({"identity": value}, FILE)
