"""Who holds a lock is asked without taking it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archlab.storage import lock_holders
from archlab.storage.lock_holders import holder
from archlab.storage.locks import lock

needs_proc = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux shows who holds a lock")


@needs_proc
@pytest.mark.parametrize("shared", [False, True])
def test_the_process_is_shown_as_long_as_it_holds_the_lock(shared: bool, tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert holder(file) is None
    assert not file.exists()
    with lock(file, wait=True, shared=shared):
        assert holder(file) == os.getpid()
        with lock(file, wait=False, shared=shared) as acquired:
            assert acquired is shared  # asking has taken nothing
    assert holder(file) is None


def test_where_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_holders, "_LOCKS", tmp_path / "nowhere")
    (tmp_path / "lock").touch()
    assert holder(tmp_path / "lock") == 0
    assert holder(tmp_path / "missing") is None
