"""Files and directories are complete or absent after a kill at any moment."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from archlab import ArchlabError
from archlab.storage import files
from archlab.storage.files import atomic_dir, remove_dir_atomic, sha256_of, write_bytes, write_text


def test_a_written_file_holds_the_data_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "note", "grüße")
    write_bytes(tmp_path / "note", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["note"]
    assert (tmp_path / "note").read_bytes() == b"new"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "note", "old")
    monkeypatch.setattr(Path, "replace", _fail)
    with pytest.raises(OSError, match="disk"):
        write_text(tmp_path / "note", "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def _fail(*_: object) -> None:
    raise OSError("disk full")


def test_a_written_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, list[str]]] = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append(("dir" if path.is_dir() else path.read_text(), sorted(file.name for file in tmp_path.iterdir())))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "note", "new")
    (content, names), last = synced
    assert content == "new"
    assert "note" not in names
    assert last == ("dir", ["note"])


def test_a_written_file_obeys_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "deep" / "best") as partial:
        (partial / "file").write_text("1")
        assert not (tmp_path / "deep" / "best").exists()
    assert os.listdir(tmp_path / "deep") == ["best"]
    assert (tmp_path / "deep" / "best" / "file").read_text() == "1"


def test_a_folder_vanishes_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), atomic_dir(tmp_path / "best") as partial:
        partial.write_text("1")
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    with pytest.raises(ArchlabError, match=r"best: already exists$"), atomic_dir(tmp_path / "best"):
        pass


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("mine")
    with pytest.raises(ArchlabError, match="already exists"), atomic_dir(tmp_path / "best", replace=True):
        pass
    assert (tmp_path / "best").read_text() == "mine"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_replacing_leaves_only_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for name in ("old", "new"):
        with atomic_dir(tmp_path / "best", replace=True) as partial:
            (partial / name).write_text(name)
    assert os.listdir(tmp_path) == ["best"]
    assert os.listdir(tmp_path / "best") == ["new"]


KILLED = """
import os, signal, sys
from pathlib import Path
from archlab.storage import files
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
moment, target = sys.argv[1], Path(sys.argv[2])
if moment != "filling":
    if moment.startswith("without exchange"):
        files._exchange = lambda *_: False
    setattr(*{
        "syncing": (files, "_sync_tree", kill),
        "exchanging": (files, "_exchange", kill),
        "swapped": (files.shutil, "rmtree", lambda path, **_: kill() if (target / "b").exists() else None),
        "without exchange, between": (Path, "rename", lambda old, new, real=Path.rename: (real(old, new), kill())),
    }[moment])
with files.atomic_dir(target, replace=True) as partial:
    (partial / "a").write_text("new")
    if moment == "filling":
        kill()
    (partial / "b").write_text("new")
"""
OLD, NEW = {"a": "old"}, {"a": "new", "b": "new"}
MOMENTS = {"filling": OLD, "syncing": OLD, "exchanging": OLD, "swapped": NEW, "without exchange, between": OLD}


@pytest.mark.parametrize(("moment", "left"), MOMENTS.items())
def test_a_kill_leaves_a_whole_folder_and_the_next_writer_cleans_up(
    tmp_path: Path, moment: str, left: dict[str, str]
) -> None:
    best = tmp_path / "best"
    with atomic_dir(best) as partial:
        (partial / "a").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, moment, str(best)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    with pytest.raises(ValueError, match="stop"), atomic_dir(best, replace=True):
        raise ValueError("stop")
    assert os.listdir(tmp_path) == ["best"]
    assert {file.name: file.read_text() for file in best.iterdir()} == left


def test_a_folder_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "one") as one, atomic_dir(tmp_path / "two") as two:
        (one / "file").write_text("1")
        (two / "file").write_text("2")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_removing_takes_the_name_away_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    monkeypatch.setattr(shutil, "rmtree", _fail)
    with pytest.raises(OSError, match="disk"):
        remove_dir_atomic(tmp_path / "old")
    assert not (tmp_path / "old").exists()


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file").startswith("ba7816bf8f01cfea")


def precious(tmp_path: Path) -> Path:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    (tmp_path / "best").symlink_to("precious")
    return tmp_path / "best"


def test_a_link_is_neither_replaced_nor_deleted_nor_followed(tmp_path: Path) -> None:
    link = precious(tmp_path)
    with pytest.raises(ArchlabError, match="best: is a link"), atomic_dir(link, replace=True):
        pass
    with pytest.raises(ArchlabError, match="best: is a link"):
        remove_dir_atomic(link)
    assert link.is_symlink()
    assert os.listdir(tmp_path / "precious") == ["thesis.tex"]


def test_an_empty_folder_may_be_filled_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "best").symlink_to("disk")
    with atomic_dir(tmp_path / "best", replace=True) as partial:
        (partial / "file").write_text("1")
    assert (tmp_path / "best").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["file"]


def test_what_must_stay_is_looked_for_again_before_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()

    def check(folder: Path) -> None:
        if (folder / "thesis.tex").exists():
            raise ArchlabError("holds a thesis")

    with pytest.raises(ArchlabError, match="thesis"), atomic_dir(tmp_path / "best", replace=True, check=check):
        (tmp_path / "best" / "thesis.tex").write_text("years")
    assert os.listdir(tmp_path) == ["best"]
    assert (tmp_path / "best" / "thesis.tex").read_text() == "years"
