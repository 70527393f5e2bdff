"""The cache path of a library depends on all of its inputs."""

import pytest

from archlab.runtime import build_cache
from archlab.runtime.build_cache import build_cache_path


def test_every_input_changes_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    one = build_cache_path("native", "scan", "code", "-O3")
    assert one == build_cache_path("native", "scan", "code", "-O3")
    assert one.name.startswith("scan-")
    others = {build_cache_path("native", "scan", "code", "-O2"), build_cache_path("native", "scan", "code-O3")}
    monkeypatch.setattr(build_cache, "cpu_flags", lambda: frozenset({"avx512f"}))
    others.add(build_cache_path("native", "scan", "code", "-O3"))
    assert len({one, *others}) == 4


def test_without_a_cache_it_is_in_a_directory_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_cache, "cache_dir", lambda kind: None)
    build_cache._process_dir.cache_clear()
    one, other = build_cache_path("ahead", "a", "x"), build_cache_path("ahead", "b", "x")
    assert one.parent == other.parent
    assert one.parent.is_dir()
    one.parent.rmdir()
    build_cache._process_dir.cache_clear()
