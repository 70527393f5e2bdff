"""What is read while another process replaces it belongs to one version."""

from __future__ import annotations

from pathlib import Path

import pytest

from archlab import ArchlabError
from archlab.storage import snapshot
from archlab.storage.files import atomic_dir
from archlab.storage.manifest import write_manifest
from archlab.storage.snapshot import read_verified


def publish(folder: Path, version: str) -> None:
    with atomic_dir(folder, replace=True) as partial:
        (partial / "code").write_text(version)
        (partial / "weights").write_text(version)
        write_manifest(partial, "model")


class Reader:
    """Reads two files, between which it publishes the versions that are left."""

    def __init__(self, versions: str) -> None:
        self.versions = list(versions)

    def __call__(self, folder: Path) -> str:
        code = (folder / "code").read_text()
        if self.versions:
            publish(folder, self.versions.pop(0))
        return code + (folder / "weights").read_text()


@pytest.mark.parametrize(("later", "read"), [("", "aa"), ("b", "bb"), ("bc", "cc"), ("a", "aa")])
def test_a_folder_that_is_replaced_is_read_again(tmp_path: Path, later: str, read: str) -> None:
    publish(tmp_path / "best", "a")
    assert read_verified(tmp_path / "best", Reader(later)) == read


def test_a_folder_that_is_replaced_each_time_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "best", "a")
    with pytest.raises(ArchlabError, match="best: was replaced 5 times while it was read"):
        read_verified(tmp_path / "best", Reader("bcdefgh"))


def test_an_error_of_two_versions_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "best", "a")
    versions, verify = ["b"], snapshot.verify

    def verify_late(folder: Path) -> None:
        if versions:
            publish(folder, versions.pop())
            raise ArchlabError("weights have changed")
        verify(folder)

    monkeypatch.setattr(snapshot, "verify", verify_late)
    assert read_verified(tmp_path / "best", Reader("")) == "bb"


def test_damage_is_refused_at_once_and_a_change_while_it_is_read_too(tmp_path: Path) -> None:
    publish(tmp_path / "best", "a")

    def spoil(folder: Path) -> str:
        (folder / "weights").write_text("x")
        return (folder / "weights").read_text()

    with pytest.raises(ArchlabError, match="best: weights has changed"):
        read_verified(tmp_path / "best", spoil)
    with pytest.raises(ArchlabError, match="best: weights has changed"):
        read_verified(tmp_path / "best", Reader(""))
    with pytest.raises(ArchlabError, match=r"manifest\.json cannot be read: No such file"):
        read_verified(tmp_path / "nothing", Reader(""))
