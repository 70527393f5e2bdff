"""Definitions collected from modules work as one module, in any style that modules are written in."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from archlab import ArchlabError
from archlab.interop.standalone.bundle import Bundle
from archlab.interop.standalone.bundle_source import _from_import, packages_of, render_definitions, render_imports
from archlab.interop.standalone.source import Library

FILES = {
    "__init__.py": "from .deep.helpers import twice as doubled\n",
    "deep/__init__.py": "",
    "deep/helpers.py": '''
"""Helpers.

A legend.
"""
import math as m
import xml.dom.minidom

_cache = {}
_cache["document"] = xml.dom.minidom.Document
LIMIT: int = 3
LIMIT += 1
print = repr
counter = 0


def twice(x, *, shift=lambda LIMIT: LIMIT + m.floor(1.5)):
    global counter
    counter += 1
    return shift([x for x in (2 * x,)][0])


def unused():
    return twice(1)


def shown(x):
    return print(x)
''',
    "deep/other.py": """
import math

try:
    import antigravity_ as fast
except ImportError:
    fast = None

if math.pi > 3:
    def _work(build):
        return build
else:
    _work = None


def twice(x):
    return fast is None and _work(x)
""",
    "parts.py": '''
import math
import pack.deep.helpers
from pack import doubled
from pack.deep import helpers, other


class Base:
    LIMIT = 7

    def limit(self):
        return self.LIMIT


class Thing(Base):
    """Ümläute before a name: äöü."""

    size = Base.LIMIT

    def all(self):
        local = "äöü"; return local, doubled(3), other.twice(4), pack.deep.helpers.LIMIT, self.more()

    def more(self):
        return math.ceil(0.5), helpers.shown("a")

    def document(self):
        return helpers._cache["document"]().toxml()

    def count(self):
        return helpers.counter


class Module:
    def show(self):
        return helpers


class Star(Base):
    pass
''',
    "stars.py": "from math import *\n\n\nclass Sky:\n    pass\n",
}


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name, text in FILES.items():
        file = tmp_path / "pack" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("pack.parts")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
        del sys.modules[name]


def run_bundle(bundle: Bundle) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "written"}
    text = f"from __future__ import annotations\n{render_imports(bundle, [])}\n\n{render_definitions(bundle)}\n"
    assert "pack" not in text
    exec(compile(text, "written", "exec"), space)
    return space


def test_the_bundle_behaves_like_the_modules(pack: ModuleType) -> None:
    copy, original = run_bundle(Bundle([pack.Thing]))["Thing"](), pack.Thing()
    assert copy.all() == original.all() == ("äöü", 7, 4, 4, (1, "'a'"))
    assert copy.document() == original.document()
    assert copy.count() == 1
    assert (copy.limit(), copy.size) == (7, 7)


def test_colliding_names_are_made_unique(pack: ModuleType) -> None:
    bundle = Bundle([pack.Thing])
    space = run_bundle(bundle)
    assert {"twice", "other_twice", "helpers_print"} <= space.keys()
    assert not {"unused", "Star", "Module"} & space.keys()
    assert packages_of(bundle) == []


@pytest.mark.parametrize(("name", "problem"), [("Module", "a module used as a value"), ("Sky", r"an import of \*")])
def test_what_cannot_be_exported_is_named(pack: ModuleType, name: str, problem: str) -> None:
    module = importlib.import_module("pack.stars") if name == "Sky" else pack
    with pytest.raises(ArchlabError, match=rf"\.py:\d+: {problem}"):
        Bundle([getattr(module, name)])


def test_a_class_inside_a_function_is_refused() -> None:
    class Inner:
        pass

    with pytest.raises(ArchlabError, match="top of a module"):
        Bundle([Inner])


def test_a_module_without_python_source_is_refused() -> None:
    with pytest.raises(ArchlabError, match=r"^math: has no Python source to export$"):
        Library({"math"}, {}).module("math")


def test_a_name_that_is_taken_twice_is_made_unique_again(
    pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, text in (("one", "1"), ("two", "2")):
        (tmp_path / "pack" / folder).mkdir()
        (tmp_path / "pack" / folder / "__init__.py").write_text("")
        (tmp_path / "pack" / folder / "other.py").write_text(f"def twice(x):\n    return {text}\n")
    (tmp_path / "pack/crowd.py").write_text(
        "from pack.deep import other\nfrom pack.one.other import twice as first\n"
        "from pack.two.other import twice as second\n\n\n"
        "class Crowd:\n    def all(self):\n        return other.twice(4), first(4), second(4)\n"
    )
    crowd = importlib.import_module("pack.crowd")
    space = run_bundle(Bundle([crowd.Crowd]))
    assert space["Crowd"]().all() == crowd.Crowd().all() == (4, 1, 2)
    assert {"twice", "other_twice", "other_twice_"} <= space.keys()


def test_long_imports_are_wrapped_as_ruff_does() -> None:
    names = [f"a_name_of_some_length_{number}" for number in range(6)]
    text = _from_import("module", reversed(names))
    assert text == "from module import (\n" + "".join(f"    {name},\n" for name in names) + ")"
    assert _from_import("module", names[:2]) == f"from module import {names[0]}, {names[1]}"
