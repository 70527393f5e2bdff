"""A C++ backend that cannot be built is left out, and PyTorch's is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import needs_compiler

from archlab.ops.native.library import compile_library


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@needs_compiler
@pytest.mark.slow
def test_what_a_compiler_refuses_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.cpp").write_text("int answer( {")
    assert compile_library(tmp_path / "broken.cpp") is None
    (tmp_path / "whole.cpp").write_text('extern "C" int answer() { return SIZE; }')
    found = compile_library(tmp_path / "whole.cpp", SIZE=42)
    assert found is not None
    assert found.answer() == 42


@needs_compiler
def test_a_source_that_cannot_be_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert compile_library(tmp_path / "absent.cpp") is None
    assert "the C++ backend absent is not built ([Errno 2] No such file or directory" in caplog.text


def test_nothing_is_built_where_backends_are_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_NATIVE", "off")
    (tmp_path / "whole.cpp").write_text('extern "C" int answer() { return 42; }')
    assert compile_library(tmp_path / "whole.cpp") is None
    assert not (tmp_path / "cache").exists()
