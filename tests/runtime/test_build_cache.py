"""A cached library is loaded if it is whole and the user's own, and built again otherwise."""

import os
import stat
import time
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from archlab.runtime import user_cache
from archlab.runtime.build_cache import build_key, cached_library
from archlab.runtime.user_cache import cache_dir, machine_key, usable_cache_dir

owns_files = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    user_cache._process_dir.cache_clear()
    yield tmp_path / "cache"
    user_cache._problem.cache_clear()


class Builder:
    """Writes a library of a few bytes and counts how often it is asked."""

    def __init__(self, content: bytes | None = b"machine code") -> None:
        self.content, self.times = content, 0

    def __call__(self, file: Path) -> Path | None:
        self.times += 1
        if self.content is None:
            return None
        file.write_bytes(self.content)
        return file


def library(build: Builder, *parts: str) -> Path:
    file = cached_library("native", "scan", parts, build)
    assert file is not None
    return file


def test_every_input_changes_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    one = build_key("scan", "code", "-O3")
    assert one == build_key("scan", "code", "-O3")
    others = {build_key("scan", "code", "-O2"), build_key("scan", "code-O3"), build_key("other", "code", "-O3")}
    for name, value in {"cpu_flags": frozenset({"avx512f"}), "cpu_name": "another CPU"}.items():
        machine_key.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(user_cache, name, lambda value=value: value)
            others.add(build_key("scan", "code", "-O3"))
    machine_key.cache_clear()
    assert len({one, *others}) == 6


def test_a_library_is_built_once() -> None:
    build = Builder()
    one, other = library(build, "code"), library(build, "code")
    assert (one, build.times, one.read_bytes()) == (other, 1, b"machine code")
    assert [file.name for file in one.parent.iterdir()] == [one.name]
    assert not one.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "writable", "link"])
def test_a_damaged_library_is_built_again(damage: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    build = Builder()
    file = library(build, "code")
    if damage == "writable":
        file.chmod(0o777)
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_bytes({"cut": b"machine", "changed": b"machine c0de", "empty": b""}[damage])
    again = library(build, "code")
    assert (build.times, again.read_bytes(), again.is_symlink()) == (2, b"machine code", False)
    assert "it is built again" in caplog.text
    assert library(build, "code") == again
    assert build.times == 2


@owns_files
def test_what_belongs_to_another_user_is_not_loaded(cache_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    os.chown(library(build, "code"), 1000, 1000)
    assert library(build, "code").stat().st_uid == 0
    os.chown(cache_home / "archlab" / "native", 1000, 1000)
    user_cache._problem.cache_clear()
    assert cache_home not in library(build, "code").parents
    assert "belongs to another user (uid 1000) (remove it): compiled code is kept for this process alone" in caplog.text


def test_a_folder_that_all_may_write_to_is_not_used(cache_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    folder = library(build, "code").parent
    folder.chmod(0o777)
    user_cache._problem.cache_clear()
    private = library(build, "code").parent
    assert (private == folder, private.stat().st_mode & 0o777) == (False, 0o700)
    assert caplog.text.count("may be written to by other users") == 1
    library(build, "code")
    assert build.times == 2


def test_a_cache_below_a_directory_of_everyone_is_not_used(cache_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache_home.mkdir()
    for mode, is_used in ((0o777, False), (0o1777, True)):  # a sticky bit keeps others from renaming
        cache_home.chmod(mode)
        user_cache._problem.cache_clear()
        assert (cache_dir("native") is not None) is is_used
    assert caplog.text.count("cache may be written to by every user") == 1


def test_unfinished_builds_of_long_ago_are_removed(cache_home: Path) -> None:
    folder = usable_cache_dir("native")
    for name, age in ((".building-old", 2 * 86400), (".building-new", 3600)):
        (folder / name).mkdir()
        os.utime(folder / name, times=(time.time() - age,) * 2)
    library(Builder(), "code")
    assert [path.name for path in folder.glob(".building-*")] == [".building-new"]


def test_a_process_s_own_cache_ends_with_it_and_not_with_a_child(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    user_cache._remove(tmp_path / "own", os.getpid() + 1)  # as in a forked process
    assert (tmp_path / "own").is_dir()
    user_cache._remove(tmp_path / "own", os.getpid())
    assert not (tmp_path / "own").exists()


def test_a_folder_of_the_users_own_group_is_closed(cache_home: Path) -> None:
    folder = cache_home / "archlab" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o775)
    assert cache_dir("native") == folder
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_cache_that_is_a_file_and_a_user_without_a_home(
    cache_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache_home.write_text("")
    assert cache_dir("native") is None
    assert usable_cache_dir("native").is_dir()
    assert f"{cache_home / 'archlab' / 'native'} cannot be written to" in caplog.text
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("archlab.runtime.user_dirs._home", lambda: None)
    assert cache_dir("native") is None


@pytest.mark.parametrize(("kind", "is_kept"), [("inductor", False), ("ahead", False), ("native", True)])
def test_torch_s_compiler_has_no_directory_with_a_space(
    kind: str, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of mine"))
    folder = usable_cache_dir(kind)
    assert (folder == tmp_path / "of mine" / "archlab" / kind) is is_kept
    assert " " not in str(folder) or is_kept
    assert ("has a space in its name" in caplog.text) is not is_kept


def test_builders_at_once_all_get_a_whole_library() -> None:
    builders = [Builder(bytes([index])) for index in range(6)]  # compilers need not give the same bytes twice
    with ThreadPool(6) as pool:
        files = pool.map(lambda build: library(build, "code"), builders)
    assert all(len(file.read_bytes()) == 1 for file in files)
    assert library(Builder(), "code").read_bytes() != b"machine code"


def test_what_cannot_be_built_leaves_nothing() -> None:
    assert cached_library("native", "scan", ("code",), Builder(None)) is None
    assert list(usable_cache_dir("native").iterdir()) == []
