"""A user without a name or a home, as a container runs a process."""

from __future__ import annotations

import getpass
import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from archlab.runtime import user_dirs
from archlab.runtime.user_cache import cache_dir
from archlab.runtime.user_dirs import ensure_user, private_temp_dir, user_dir


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without HOME, without a passwd entry, and with a temporary directory of the test's own."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return tmp_path


def test_who_is_unknown_gets_a_name_and_a_home(nobody: Path) -> None:
    ensure_user()
    assert getpass.getuser() == f"uid_{os.getuid()}"
    assert Path.home() == nobody / f"archlab-{os.getuid()}"
    assert cache_dir("native") == Path.home() / ".cache/archlab/native"


def test_without_them_there_is_no_cache_and_no_error(nobody: Path) -> None:
    assert cache_dir("native") is None
    assert user_dir("XDG_STATE_HOME", ".local/state", "archlab") is None


def test_an_empty_home_is_none(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert cache_dir("native") is None


def test_who_is_known_keeps_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "ada")
    ensure_user()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(tmp_path), "ada")


def test_a_temporary_directory_that_others_can_write_is_not_used(nobody: Path) -> None:
    expected = nobody / f"archlab-{os.getuid()}"
    expected.mkdir(mode=0o777)
    expected.chmod(0o777)
    other = private_temp_dir()
    assert other is not None
    assert other != expected
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    expected.rmdir()
    expected.symlink_to(other)
    assert private_temp_dir() not in (expected, None)


def test_no_temporary_directory_at_all(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(user_dirs.tempfile, "gettempdir", none)
    assert private_temp_dir() is None
    ensure_user()
    assert "HOME" not in os.environ
