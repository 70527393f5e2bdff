"""A declaration read from the source says what the imported class says."""

from __future__ import annotations

import ast
import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Write

from archlab.config import component_source, registry
from archlab.config.component_source import Declaration, UnreadableSource, read_declaration
from archlab.config.registry import Component, find
from archlab.config.schema import knobs_of, wiring_of

SHIPPED = [find(kind, name) for kind, names in registry._shipped_names().items() for name in names]


@pytest.mark.parametrize("component", SHIPPED, ids=lambda c: f"{c.kind}-{c.name}")
def test_the_source_says_what_the_class_says(component: Component) -> None:
    module = f"archlab.components.{component.kind}.{component.name}"
    declaration = read_declaration(module, component.kind, component.name, registry._PUBLIC)
    importlib.import_module(module)
    cls = component.cls
    assert dict(declaration.knobs) == knobs_of(cls.__init__)
    assert [knob.type for knob in declaration.knobs.values()] == [knob.type for knob in knobs_of(cls.__init__).values()]
    assert list(declaration.knobs) == list(knobs_of(cls.__init__))
    assert list(declaration.wiring) == wiring_of(cls.__init__)
    assert declaration.doc == cls.__doc__
    assert registry._registered[component.kind, component.name] is find(component.kind, component.name)


@pytest.mark.slow
def test_the_search_domains_are_those_of_the_decorator() -> None:
    domains = {}
    code = """
import importlib, json, sys
from archlab.config import registry
registry._declared.clear()
found = {}
for kind, names in registry._shipped_names().items():
    for name in names:
        importlib.import_module(f"archlab.components.{kind}.{name}")
        found[f"{kind} {name}"] = repr(dict(registry._registered[kind, name].search))
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import json

    domains = json.loads(done.stdout)
    assert domains == {f"{c.kind} {c.name}": repr(dict(c.search)) for c in SHIPPED}


@pytest.mark.slow
def test_listing_and_checking_import_no_torch() -> None:
    code = """
import sys
from archlab.config import experiment, registry
for component in registry.components():
    component.knobs, component.summary, component.search
experiment.load("megalodon_tiny").to_yaml()
sys.exit("torch is imported" if "torch" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_source_that_needs_more_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableSource, match="no norm 'rmss'"):
        read_declaration("archlab.components.norm.rms", "norm", "rmss", registry._PUBLIC)
    with pytest.raises(UnreadableSource):
        read_declaration("archlab.components.norm.nowhere", "norm", "nowhere", registry._PUBLIC)


def test_a_component_whose_source_cannot_be_read_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnreadableSource("no")

    monkeypatch.setattr(registry, "read_declaration", refuse)
    monkeypatch.setattr(registry, "_declared", {})
    monkeypatch.setattr(registry, "_registered", {})
    for module in [name for name in sys.modules if name == "archlab.components.norm.rms"]:
        monkeypatch.delitem(sys.modules, module)
    assert find("norm", "rms").knobs["eps"].default > 0
    assert Path(sys.modules["archlab.components.norm.rms"].__file__ or "").name == "rms.py"


SOURCE = '''
from torch import nn
from archlab import register
import torch, math
NUMBERS = 3
def half(x): return x / 2

@register("norm", "x")
class X(nn.Module):
    """X."""
'''


def declared(monkeypatch: pytest.MonkeyPatch, constructor: str) -> Declaration:
    tree = ast.parse(SOURCE + constructor)
    monkeypatch.setattr(component_source, "_parse", lambda module: tree)
    return read_declaration("archlab.components.norm.x", "norm", "x", registry._PUBLIC)


def test_a_constructor_of_another_library_has_no_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = declared(monkeypatch, "")
    assert (found.doc, dict(found.knobs), found.wiring) == ("X.", {}, ())
    found = declared(monkeypatch, "    def __init__(self, dim: int, *, eps: float = math.tau * NUMBERS) -> None: ...\n")
    assert (found.wiring, found.knobs["eps"].default) == (("dim",), 6 * math.pi)


@pytest.mark.parametrize(
    ("knob", "problem"),
    [
        ("eps=1.0", "eps has no type"),
        ("eps: float = half(3)", "half is not a plain value"),
        ("eps: float = torch.pi", "torch is not a plain value"),
        ("eps: nn.Module = None", "nn is not a plain value"),
        ("eps: float = tau", "archlab.components.norm.x: 'tau'"),
    ],
)
def test_a_knob_that_needs_more_is_refused(knob: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableSource, match=problem):
        declared(monkeypatch, f"    def __init__(self, *, {knob}) -> None: ...\n")
