from pathlib import Path

import pytest
from search_helpers import is_free

from archlab.storage.locks import lock, lock_dir


def test_a_file_is_locked_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lock"
    with lock(file, wait=False) as first, lock(file, wait=False) as second:
        assert (first, second) == (True, False)
        assert not is_free(file)
    assert is_free(file)


def test_readers_share_a_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with lock(file, wait=False, shared=True) as first, lock(file, wait=False, shared=True) as second:
        assert (first, second) == (True, True)
        assert not is_free(file)


def test_a_directory_is_locked_once(tmp_path: Path) -> None:
    with lock_dir(tmp_path) as first, lock_dir(tmp_path) as second:
        assert (first, second) == (True, False)
    with lock_dir(tmp_path) as again:
        assert again


def test_a_directory_that_is_missing_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), lock_dir(tmp_path / "missing"):
        pass
    assert not list(tmp_path.iterdir())
