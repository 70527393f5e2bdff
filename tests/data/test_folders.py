"""Folders are walked through links, and what links make of them is noticed."""

import os
from pathlib import Path

import pytest

from archlab import ArchlabError
from archlab.data.folders import matches_glob
from archlab.data.text_sources import TextFiles


def names(path: Path, glob: str = "**/*") -> list[str]:
    return [name for name, _ in TextFiles(str(path), glob, "text").documents()]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    for name in ("far/a/b.txt", "near/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "near" / "link").symlink_to("../far")
    (tmp_path / "near" / "single.txt").symlink_to("../far/a/b.txt")
    assert names(tmp_path / "near", "**/[bc].txt") == ["c.txt", "link/a/b.txt"]
    with pytest.raises(ArchlabError, match=r"near/single\.txt: is the same file as .*near/link/a/b\.txt"):
        names(tmp_path / "near")


def test_a_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("b")
    (tmp_path / "a" / "loop").symlink_to("..")
    with pytest.raises(ArchlabError, match="loop: links to a folder that it is in; remove the link"):
        names(tmp_path)


def test_a_hard_link_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("train")
    os.link(tmp_path / "train.txt", tmp_path / "test.txt")
    with pytest.raises(ArchlabError, match=r"train\.txt: is the same file as .*test\.txt; leave one of them out"):
        names(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ArchlabError, match="cannot be listed: Permission denied"):
        names(tmp_path)


@pytest.mark.parametrize(
    ("name", "pattern", "matches"),
    [
        ("a.txt", "**/*", True),
        ("a/b/c.txt", "**/*.txt", True),
        ("a/b/c.txt", "*.txt", False),
        ("a/b/c.txt", "a/**/c.txt", True),
        ("a/c.txt", "a/**/c.txt", True),
        ("a/b/c.txt", "a/*/c.txt", True),
        ("a/b/c.txt", "a/**", True),
        ("a/b/c.txt", "**/b/**/*", True),
        ("b", "**/a/*", False),
        ("A.TXT", "*.txt", False),
    ],
)
def test_a_pattern_matches_as_a_shell_does(name: str, pattern: str, matches: bool) -> None:
    assert matches_glob(name, pattern.split("/")) is matches


def test_documentation_is_read_if_the_pattern_names_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("read me")
    assert names(tmp_path, "*.md") == ["README.md"]
    with pytest.raises(ArchlabError, match=r"no file matches '\*\*/\*'; README\.md is left out by name"):
        names(tmp_path)
    with pytest.raises(ArchlabError, match=r"glob 'a\*\*' cannot be used: \*\* has to stand alone"):
        names(tmp_path, "a**")
