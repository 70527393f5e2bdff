"""The standard library is found offline, without what was installed into it."""

import platform
from pathlib import Path

import pytest

from archlab import ArchlabError
from archlab.components.task.stdlib import Stdlib
from archlab.config.registry import find
from archlab.data.text_sources import StdlibSource


def test_it_is_known_to_yaml_and_needs_no_knob() -> None:
    assert find("task", "stdlib").cls is Stdlib
    Stdlib().check(512)


def test_the_library_is_split_by_file_and_described() -> None:
    facts = Stdlib().describe()
    assert facts["documents"] > 300
    assert facts["split_by"] == "documents"
    assert facts["bytes"]["train"] > 5_000_000
    assert facts["bytes"]["validation"] == min(524288, facts["bytes_available"]["validation"])
    assert facts["python"] == platform.python_version()


def test_documents_are_python_sources() -> None:
    documents = Stdlib().text("train").split(b"\0")
    assert any(b"import " in document for document in documents)


def test_installed_packages_and_caches_are_left_out(tmp_path: Path) -> None:
    for name in ("b.py", "a/c.py", "site-packages/x.py", "a/dist-packages/x.py", "__pycache__/x.py", "a/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [name for name, _ in list(StdlibSource(str(tmp_path)).documents())] == ["a/c.py", "b.py"]


def test_a_python_without_sources_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"no \*\.py files; this Python comes without"):
        list(StdlibSource(str(tmp_path)).documents())
