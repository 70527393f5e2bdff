"""Every component documents each of its knobs, once, in the class that defines its constructor."""

import inspect
import re

import pytest

from archlab.config.registry import find, kinds, names

PARTS = [(kind, name) for kind in kinds() if kind != "task" for name in names(kind)]


def documented(cls: type) -> list[str]:
    """Return the names in the Args section of the class that defines a constructor."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    _, _, section = (inspect.getdoc(owner) or "").partition("\nArgs:\n")
    return re.findall(r"^    (\w+): \S", section.partition("\n\n")[0], re.MULTILINE)


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=[f"{kind}-{name}" for kind, name in PARTS])
def test_each_knob_is_documented_in_the_order_of_the_constructor(kind: str, name: str) -> None:
    component = find(kind, name)
    assert documented(component.cls) == list(component.knobs)


@pytest.mark.parametrize("kind", kinds())
def test_the_listing_has_a_meaning_for_each_knob(kind: str) -> None:
    assert [f"{name}.{knob}" for name in names(kind) for knob, said in meanings(kind, name).items() if not said] == []


def meanings(kind: str, name: str) -> dict[str, str]:
    component = find(kind, name)
    return {knob: component.meanings.get(knob, "") for knob in component.knobs}
