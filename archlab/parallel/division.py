"""Tensors of a model that ranks divide along the axis `tensor`, by the declarations of its components.

A component whose parameters end in a `row`, which sums over ranks, is divided as a whole: its matrices, its counts, and
the parts that compute on its heads or channels. Where one of these declares no plan, all of it stays whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any

from torch import Tensor, nn

from archlab.config.parallel import PATH, TENSOR_PATH
from archlab.config.param_roles import Param, find_param
from archlab.config.registry import Component, component_of
from archlab.config.tensor_plan import TensorPlan
from archlab.errors import ConfigError
from archlab.modeling.param_roles import owner_of
from archlab.ops.rank_sum import RankAxis


class DoesNotDivide(ConfigError):
    """A number of ranks that does not divide a count or a width of a model, or a model that none divides."""


@dataclass(frozen=True)
class Member:
    """A component of a model that is divided: its path, module and registration, and its parameters that are."""

    path: str
    module: nn.Module
    component: Component
    params: dict[str, Param]

    @property
    def plan(self) -> TensorPlan:
        """The plan, an empty one where there is none."""
        return self.component.tensor or TensorPlan()

    def __str__(self) -> str:
        place = f" ({self.path})" if self.path else ""
        return f"{self.component.kind} {self.component.name!r}{place}"


@dataclass(frozen=True)
class Cut:
    """The entries `begin` to `end` of an axis of `size` that are this rank's; others of its group have up to `most`."""

    axis: int
    size: int
    begin: int
    end: int
    most: int
    group: str

    def part_of(self, whole: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor."""
        return whole.narrow(self.axis, self.begin, self.end - self.begin)


@dataclass
class Division:
    """The division of a model among `size` ranks: the members, and the axis of each parameter by its name."""

    size: int
    members: list[Member] = field(default_factory=list)
    axes: dict[str, int] = field(default_factory=dict)
    vocabularies: list[Member] = field(default_factory=list)

    def cut(self, name: str, whole: Tensor, ranks: RankAxis) -> Cut:
        """Return the part of a parameter that a rank has; the last rank of a vocabulary may have less than others."""
        axis, size = self.axes[name], whole.shape[self.axes[name]]
        most = -(-size // ranks.size)
        begin = min(size, ranks.index * most)
        return Cut(axis, size, begin, min(size, begin + most), most, ranks.group)


def plan_division(model: nn.Module, size: int) -> Division:
    """Return how so many ranks divide a model, which may be on meta.

    Raises ConfigError where nothing of it can be divided, or where `size` does not divide a count or a width, with the
    nearest number that does.
    """
    division, shapes = Division(size), {name: p.shape for name, p in model.named_parameters()}
    known = _components(model)
    for member in known:
        if "row" in {param.tensor for param in member.params.values()}:
            division.members += [m for m in _with_parts(member, known) or () if m not in division.members]
        elif _divides_vocabulary(member, shapes, size):
            division.vocabularies.append(member)
    _require_divisible(division, shapes)
    _require_linear(model, division)
    for member in (*division.members, *division.vocabularies):
        division.axes.update({name: _axis(param, len(shapes[name])) for name, param in member.params.items()})
    if not division.axes:
        problem = f"{size}: no component of this model declares how ranks divide it; {PATH}.shard divides any weights"
        raise DoesNotDivide(TENSOR_PATH, problem)
    return division


def _components(model: nn.Module) -> list[Member]:
    """Return the components of a model, with the parameters that each declares a placement of."""
    members = {
        path: Member(path, module, component, {})
        for path, module in model.named_modules()
        if (component := component_of(type(module))) is not None
    }
    for name, _ in model.named_parameters():
        prefix, _, component = owner_of(model, name)
        key = None if component is None else find_param(component.params, name.removeprefix(prefix))
        if component is not None and key is not None and component.params[key].tensor != "none":
            members[prefix.removesuffix(".")].params[name] = component.params[key]
    return list(members.values())


def _with_parts(member: Member, known: Sequence[Member]) -> list[Member] | None:
    """Return a member and the parts divided with it, and theirs; None where one of them cannot be."""
    found, prefix = [member], f"{member.path}." if member.path else ""
    for pattern in member.plan.parts:
        for part in known:
            inner = part.path.removeprefix(prefix)
            if part is member or not part.path.startswith(prefix) or not fnmatchcase(inner, pattern):
                continue
            parts = None if part.component.tensor is None else _with_parts(part, known)
            if parts is None:
                return None
            found += parts
    return found


def _divides_vocabulary(member: Member, shapes: dict[str, Any], size: int) -> bool:
    """Return whether a component has a vocabulary of which every rank gets a part."""
    rows = [shapes[name][0] for name, param in member.params.items() if param.tensor == "vocab"]
    return bool(rows) and all(-(-number // size) * (size - 1) < number for number in rows)


def _axis(param: Param, dims: int) -> int:
    return {"column": param.fan_out, "row": param.fan_in}.get(param.tensor, 0) % dims


def _require_divisible(division: Division, shapes: dict[str, Any]) -> None:
    # Heads before the channels that they consist of, as a reader would look for them.
    numbers = [number for read in (_counts, _widths) for m in division.members for number in read(m, shapes)]
    common = math.gcd(*(number for number, _ in numbers))
    for number, what in numbers:
        if number % division.size:
            fitting = [size for size in range(1, common + 1) if common % size == 0]
            nearest = min(fitting, key=lambda size: abs(size - division.size))
            problem = f"{division.size} does not divide {what}; the nearest number that divides all is {nearest}"
            raise DoesNotDivide(TENSOR_PATH, problem)


def _require_linear(model: nn.Module, division: Division) -> None:
    for member in division.members:
        for name in (name for name, param in member.params.items() if param.tensor == "row"):
            path, _, leaf = name.rpartition(".")
            module = model.get_submodule(path)
            is_linear = leaf == "weight" and type(module).forward is nn.Linear.forward
            if not is_linear and not adds_over_inputs(module):
                problem = f"{member} declares a row for {name!r}, which is not the weight of an nn.Linear"
                advice = "only its output is summed over ranks, and that of a module with `adds_over_inputs = True`"
                raise ConfigError(TENSOR_PATH, f"{problem}: {advice}")


def adds_over_inputs(module: nn.Module) -> bool:
    """Return whether a module declares that its output is a sum over the inputs of its rows, in any parts of them."""
    return bool(getattr(module, "adds_over_inputs", False))


def _counts(member: Member, _: dict[str, Any]) -> Iterator[tuple[int, str]]:
    for name in member.plan.counts:
        count = _read_count(member, name)
        yield count, f"{name} {count} of {member}"


def _widths(member: Member, shapes: dict[str, Any]) -> Iterator[tuple[int, str]]:
    for name, param in member.params.items():
        width = shapes[name][_axis(param, len(shapes[name]))]
        yield width, f"the {width} channels or heads of {name!r}"


def _read_count(member: Member, name: str) -> int:
    try:
        count: Any = reduce(getattr, name.split("."), member.module)
    except AttributeError:
        count = None
    if not isinstance(count, int) or count < 1:
        raise ConfigError(TENSOR_PATH, f"{member} has no number {name!r}, which its TensorPlan counts")
    return count
