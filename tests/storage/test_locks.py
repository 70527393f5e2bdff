import errno
import fcntl
import os
from pathlib import Path

import pytest
from search_helpers import is_free

from archlab import ArchlabError
from archlab.storage.locks import lock, lock_dir
from archlab.storage.run_lock import lock_run


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


def test_a_directory_that_its_file_system_does_not_lock_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: _fail(errno.EBADF))  # NFS locks what is open for writing
    with lock_dir(tmp_path) as acquired:
        assert not acquired


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_run_on_a_file_system_without_locks_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: _fail(number))
    with lock_run(tmp_path):
        (warning,) = caplog.messages
    assert warning == f"{tmp_path}: its file system has no locks; let no other process train here"


def test_a_run_that_cannot_be_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".run.lock").symlink_to("elsewhere")
    with pytest.raises(ArchlabError, match="cannot be written: Too many levels of symbolic links"), lock_run(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / ".run.lock").unlink()
    monkeypatch.setattr(fcntl, "flock", lambda *_: _fail(errno.EIO))
    with pytest.raises(ArchlabError, match=f"^{tmp_path}: cannot be written: "), lock_run(tmp_path):
        pass
