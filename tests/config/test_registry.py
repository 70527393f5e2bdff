from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from conftest import Write

from archlab import ArchlabError, ConfigError
from archlab.config import registry
from archlab.config.domains import Choice, choice
from archlab.config.plugins import load_plugin
from archlab.config.registry import Component, Slot, component_of, find, register, slot, slots
from archlab.config.schema import coerce
from archlab.runtime.extensions import LOGGERS

SHIPPED = [component for component in registry.components() if component.cls.__module__.startswith("archlab.comp")]
every_component = pytest.mark.parametrize("component", SHIPPED, ids=lambda c: f"{c.kind}-{c.name}")
PLUGIN = """
from archlab import register


@register("norm", "{name}")
class Mine:
    \"\"\"Does nothing.\"\"\"

    def __init__(self, dim: int) -> None:
        self.dim = dim
"""


def is_known(annotation: Any) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_known(args[0])
    if origin in (Union, types.UnionType):
        return all(option is type(None) or is_known(option) for option in args)
    if origin in (list, Sequence):
        return is_known(args[0])
    return origin is Literal or is_dataclass(annotation) or annotation in (int, float, bool, str)


@every_component
def test_the_path_is_the_name(component: Component) -> None:
    file = Path(inspect.getfile(component.cls))
    assert (file.parent.name, file.stem) == (component.kind, component.name)
    assert component_of(component.cls) is component


@every_component
def test_it_says_what_it_is(component: Component) -> None:
    assert component.cls.__doc__, "no docstring of its own"
    assert component.summary


@every_component
def test_every_knob_has_a_type_and_a_default_that_fits(component: Component) -> None:
    for knob in component.knobs.values():
        if isinstance(knob.default, Slot):
            assert knob.default.kind in registry.kinds()
            assert knob.default.default is None or knob.default.default in registry.names(knob.default.kind)
        else:
            assert is_known(knob.type), knob
            if knob.default is not inspect.Parameter.empty:
                assert coerce(knob.default, knob.type, knob.name) == knob.default


@every_component
def test_every_other_parameter_is_wiring(component: Component) -> None:
    parameters = list(inspect.signature(component.cls.__init__).parameters.values())[1:]
    kinds = {p.kind for p in parameters}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    wiring = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in wiring] == component.wiring
    assert all(p.default is inspect.Parameter.empty for p in wiring), "a default makes it look like a knob"


@every_component
def test_a_search_tries_what_a_knob_may_be(component: Component) -> None:
    for name, domain in component.search.items():
        knob = component.knobs[name]
        values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        for value in values:
            if isinstance(knob.default, Slot):
                assert (value if isinstance(value, str) else value["type"]) in registry.names(knob.default.kind)
            else:
                coerce(value, knob.type, name)


def test_components_of_a_kind_take_the_same_wiring() -> None:
    for kind in registry.kinds():
        wirings = {tuple(c.wiring) for c in SHIPPED if c.kind == kind}
        assert len(wirings) == 1, (kind, wirings)


def test_every_file_is_found() -> None:
    root = Path(inspect.getfile(sys.modules["archlab.components"])).parent
    files = {(f.parent.name, f.stem) for f in root.glob("*/*.py") if not f.stem.startswith("_")}
    assert files == {(c.kind, c.name) for c in SHIPPED}


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match=r"^a\.b: no ema 'cemaa'; did you mean 'cema'\?$"):
        find("ema", "cemaa", "a.b")
    with pytest.raises(ConfigError, match="no ema 3"):
        find("ema", 3)


def test_a_name_is_taken_once() -> None:
    class Cema:
        def __init__(self, dim: int) -> None:
            pass

    find("ema", "cema")
    with pytest.raises(ArchlabError, match=r"ema 'cema' is registered twice: .*cema.* and .*test_registry"):
        register("ema", "cema")(Cema)


def test_a_domain_is_of_a_knob() -> None:
    class Sized:
        def __init__(self, dim: int, *, size: int = 1) -> None:
            pass

    with pytest.raises(ArchlabError, match="declares a search domain for 'sise', which is not a knob"):
        register("ema", "sized", search={"sise": choice(1, 2)})(Sized)
    assert "sized" not in registry.names("ema")
    register("ema", "sized", search={"size": choice(1, 2)})(Sized)
    assert find("ema", "sized").search == {"size": choice(1, 2)}


def test_a_slot_builds_its_default_and_nothing_else() -> None:
    assert type(slot("norm", "rms")(8)) is find("norm", "rms").cls
    with pytest.raises(TypeError, match="no default"):
        slot("norm")(8)
    with pytest.raises(TypeError, match="no default"):
        slots("layer", "block")(8)


def test_a_plugin_is_a_file_beside_the_yaml(write: Write) -> None:
    file = write(PLUGIN.format(name="mine"), "parts/mine.py")
    load_plugin("parts/mine.py", file.parent.parent)
    load_plugin("mine.py", file.parent)
    assert find("norm", "mine").cls(3).dim == 3
    assert find("norm", "mine").cls is find("norm", "mine").cls


def test_a_plugin_is_a_module(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(PLUGIN.format(name="by_module"), "archlab_test_module.py")
    monkeypatch.syspath_prepend(file.parent)
    load_plugin("archlab_test_module", Path())
    assert "by_module" in registry.names("norm")
    del sys.modules["archlab_test_module"]


def test_two_plugins_of_one_file_name_may_not_take_one_name(write: Write) -> None:
    here, there = (write(PLUGIN.format(name="mine"), f"{folder}/parts.py") for folder in ("here", "there"))
    load_plugin("parts.py", here.parent)
    with pytest.raises(ArchlabError, match="norm 'mine' is registered twice"):
        load_plugin("parts.py", there.parent)
    write(PLUGIN.format(name="other"), "there/parts.py")
    load_plugin("parts.py", there.parent)
    load_plugin("parts.py", here.parent)
    assert {"mine", "other"} <= set(registry.names("norm"))


def test_a_plugin_may_be_mended(write: Write) -> None:
    file = write(PLUGIN.format(name="mine") + "\nundefined\n", "parts.py")
    with pytest.raises(ConfigError, match=r"^plugins: 'parts.py' cannot be imported: NameError: .*'undefined'"):
        load_plugin("parts.py", file.parent)
    assert "mine" not in registry.names("norm")
    file.write_text(PLUGIN.format(name="mine"))
    load_plugin("parts.py", file.parent)
    assert "mine" in registry.names("norm")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("nowhere.py", "plugins: no file '.*nowhere.py'"),
        ("no_such_module", "plugins: 'no_such_module' cannot be imported: ModuleNotFoundError"),
    ],
)
def test_plugins_that_are_not_there(plugin: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_plugin(plugin, tmp_path)


class Point:
    """An entry point of a package that is installed, and broken."""

    name, value = "mine", "my_package.components"

    def load(self) -> None:
        raise ImportError("libmine.so: no such file")


@pytest.mark.parametrize("group", ["archlab.components", "archlab.loggers"])
def test_an_installed_package_that_cannot_be_imported_is_named(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **asked: [Point()] * (asked == {"group": group}))
    what = {"archlab.components": "the components", "archlab.loggers": "'mine'"}[group]
    problem = f"{what} of the installed module 'my_package.components' cannot be imported: ImportError: libmine"
    with pytest.raises(ArchlabError, match=problem):
        registry._load_entry_points.__wrapped__() if group == "archlab.components" else LOGGERS.find("mine")
    assert LOGGERS.find("yours") is None
