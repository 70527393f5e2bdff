"""The former names of a model's tensors, for checkpoints of earlier versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from archlab.config import renames
from archlab.config.registry import component_of
from archlab.storage.tensors import named_tensors


def former_names(model: nn.Module) -> dict[str, str]:
    """Return the present name of each tensor of a model by its former one; those not renamed are left out."""
    components = _renamed_components(model)
    names = {_former(name, components): name for name in named_tensors(model)}
    return {old: new for old, new in names.items() if old != new}


def has_former_names(names: Iterable[str], former: Mapping[str, str]) -> bool:
    """Return whether any of these names of tensors was given up."""
    present = set(former.values())
    return any(name in former and name not in present for name in names)


def _renamed_components(model: nn.Module) -> list[tuple[str, Mapping[str, str]]]:
    """Return prefix and former attributes by present ones of each renamed component, the innermost first."""
    found = []
    for path, module in model.named_modules():
        component = component_of(type(module))
        renamed = renames.current().parameters_of(component.kind, component.name) if component else {}
        if renamed:
            prefix = f"{path}.".replace("_orig_mod.", "").removeprefix(".")
            found.append((prefix, {new: old for old, new in renamed.items()}))
    # From the inside out, so that the prefixes of the outer components, in present names, still match.
    return sorted(found, key=lambda entry: -len(entry[0]))


def _former(name: str, components: list[tuple[str, Mapping[str, str]]]) -> str:
    for prefix, former in components:
        if not name.startswith(prefix):
            continue
        below = name.removeprefix(prefix)
        for new, old in former.items():
            if below == new or below.startswith(f"{new}."):
                name = f"{prefix}{old}{below.removeprefix(new)}"
                break
    return name
