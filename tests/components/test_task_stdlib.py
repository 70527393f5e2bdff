"""The standard library is found offline, without what was installed into it."""

import platform

import pytest

from archlab.components.task.stdlib import Stdlib
from archlab.config.registry import find


@pytest.mark.slow
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
