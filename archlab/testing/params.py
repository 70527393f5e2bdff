"""The check of a component's declarations of its parameters."""

from __future__ import annotations

from collections.abc import Iterator

from archlab.config.param_roles import find_param
from archlab.config.registry import Component, find
from archlab.modeling.build import build_on_meta
from archlab.modeling.param_roles import owner_of
from archlab.testing.component_case import ComponentCase, require
from archlab.testing.variation import variants

VARIANTS = 6  # beside the component itself; more of them only in search of a declared name


def declares_parameters(case: ComponentCase) -> None:
    """A component that declares roles leaves no parameter out, and every declared name exists for some knobs."""
    component, found = find(case.kind, case.name), set[str]()
    if not component.params:
        return
    for number, variant in enumerate(variants(case)):
        for name in _own_names(variant, component):
            key = find_param(component.params, name)
            require(key is not None, f"the parameter {name!r} has no role in register(..., params=...)")
            found.add(str(key))
        if number >= VARIANTS and found >= component.params.keys():
            return
    missing = [name for name in component.params if name not in found]
    require(not missing, f"register(..., params=...) has {missing[:1]}, which is not a parameter for any knobs")


def _own_names(case: ComponentCase, component: Component) -> Iterator[str]:
    """Yield the names of the parameters that are in the component and in no other one below it."""
    model = build_on_meta(case.spec())
    for name, _ in model.named_parameters():
        prefix, owner, _ = owner_of(model, name)
        if type(owner) is component.cls:
            yield name.removeprefix(prefix)
