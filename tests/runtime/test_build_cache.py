"""A library that was built lies under the name of all that it was made of."""

import pytest

from archlab.runtime import build_cache
from archlab.runtime.build_cache import built_file


def test_a_name_for_each_thing_that_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    one = built_file("native", "scan", "code", "-O3")
    assert one == built_file("native", "scan", "code", "-O3")
    assert one.name.startswith("scan-")
    others = {built_file("native", "scan", "code", "-O2"), built_file("native", "scan", "code-O3")}
    monkeypatch.setattr(build_cache, "processor_features", lambda: frozenset({"avx512f"}))
    others.add(built_file("native", "scan", "code", "-O3"))
    assert len({one, *others}) == 4


def test_without_a_cache_it_lies_in_a_folder_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_cache, "cache_folder", lambda kind: None)
    build_cache._own_folder.cache_clear()
    one, other = built_file("ahead", "a", "x"), built_file("ahead", "b", "x")
    assert one.parent == other.parent
    assert one.parent.is_dir()
    one.parent.rmdir()
    build_cache._own_folder.cache_clear()
