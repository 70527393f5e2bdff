"""Matrices, heads and vocabularies divided among ranks: tensor parallelism, by the declarations of components.

A rank's model is a smaller one: its parameters are parts of the whole ones, and its code runs as it is. Only the
outputs of matrices whose inputs are divided are sums over ranks (`RowLinear`), and so are the vectors of tokens, whose
rank has them. Gradients follow from `archlab.ops.rank_sum`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config.spec import Spec
from archlab.modeling.backbone import OutputSplit, output_weight
from archlab.modeling.build import build_on_meta
from archlab.ops.rank_sum import RankAxis, gather_outputs, gather_over_ranks, sum_over_ranks
from archlab.parallel.division import Cut, Division, Member, adds_over_inputs, plan_division

_CUTS = "tensor_cuts"  # the attribute of a divided model


class RowLinear(nn.Module):
    """A linear layer whose inputs are divided among ranks: the sum of their products, then the bias.

    Of an input that all ranks have, each takes its part.
    """

    bias: nn.Parameter | None

    def __init__(self, linear: nn.Linear, cut: Cut) -> None:
        super().__init__()
        self.weight, self.cut = linear.weight, cut
        self.register_parameter("bias", linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project this rank's channels, and add those of the others."""
        own = x[..., self.cut.begin : self.cut.end] if x.shape[-1] == self.cut.size else x
        y = sum_over_ranks(F.linear(own, self.weight), self.cut.group)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def divide_model(model: nn.Module, axis: RankAxis) -> None:
    """Reduce a model, in place, to this rank's part; before it is checkpointed, compiled and sharded.

    Raises ConfigError for a model that the ranks do not divide.
    """
    division = plan_division(model, axis.size)
    cuts = {name: division.cut(name, p, axis) for name, p in model.named_parameters() if name in division.axes}
    matrix = output_weight(model)
    outputs = next((name for name, p in model.named_parameters() if p is matrix and name in cuts), None)
    _replace_parameters(model, cuts)
    for member in division.members:
        _divide_counts(member, axis)
    _replace_rows(model, division, cuts)
    for member in division.vocabularies:
        _divide_vocabulary(member, cuts)
    setattr(model, _CUTS, cuts)
    if outputs is not None:
        head: nn.Module = model.head  # type: ignore[assignment]
        # A tied one reads the embedding's weight; one with a weight of its own, or of a head inside, is divided above.
        if model.get_submodule(outputs.rpartition(".")[0]) not in list(head.modules()):
            head.forward = partial(_output, head.forward, cuts[outputs])
        model.output_split = OutputSplit(cuts[outputs].begin, cuts[outputs].group)  # type: ignore[assignment]


def build_part(spec: Spec, size: int) -> nn.Module:
    """Return the first rank's part of a model on the meta device, to be traced: its sums are never computed.

    Raises ConfigError for a model that so many ranks do not divide.
    """
    model = build_on_meta(spec)
    divide_model(model, RankAxis(size, 0, "traced"))
    return model


def get_cuts(model: nn.Module) -> Mapping[str, Cut]:
    """Return the part that this rank has of each parameter that ranks divide along the axis `tensor`, by name."""
    cuts: Mapping[str, Cut] = getattr(model, _CUTS, {})
    return cuts


def _replace_parameters(model: nn.Module, cuts: Mapping[str, Cut]) -> None:
    parts: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if name in cuts:
            part = cuts[name].part_of(parameter.detach()).clone(memory_format=torch.contiguous_format)
            parts[id(parameter)] = nn.Parameter(part, parameter.requires_grad)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in parts:
                setattr(module, name, parts[id(parameter)])
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape


def _divide_counts(member: Member, axis: RankAxis) -> None:
    for name in member.plan.counts:
        _divide(member.module, name.split("."), axis.size)
    if member.plan.first is not None:
        value: Any = member.module
        for name in member.plan.counts[0].split("."):
            value = getattr(value, name)
        setattr(member.module, member.plan.first, axis.index * value)


def _divide(owner: Any, names: list[str], size: int) -> Any:
    """Return an object whose count is divided: another one where it is a dataclass, which modules may share."""
    name, inner = names[0], names[1:]
    old = getattr(owner, name)
    value = _divide(old, inner, size) if inner else old // size
    if is_dataclass(owner) and not isinstance(owner, type):
        return replace(owner, **{name: value})
    setattr(owner, name, value)
    return owner


def _replace_rows(model: nn.Module, division: Division, cuts: Mapping[str, Cut]) -> None:
    names = [name for m in division.members for name, param in m.params.items() if param.tensor == "row"]
    rows = {id(model.get_submodule(name.rpartition(".")[0])): cuts[name] for name in names}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and id(child) in rows:
                setattr(module, name, RowLinear(child, rows[id(child)]))
            elif id(child) in rows and adds_over_inputs(child) and "forward" not in vars(child):
                child.forward = partial(_add_outputs, child.forward, rows[id(child)].group)


def _add_outputs(forward: Callable[..., Tensor], group: str, *inputs: Tensor) -> Tensor:
    return sum_over_ranks(forward(*inputs), group)


def _divide_vocabulary(member: Member, cuts: Mapping[str, Cut]) -> None:
    name, param = next(iter(member.params.items()))
    wrap = _look_up if param.role == "input" else _output
    # On the instance, as activation checkpointing does it, which torch.compile traces as well.
    member.module.forward = partial(wrap, member.module.forward, cuts[name])


def _look_up(forward: Callable[[Tensor], Tensor], cut: Cut, ids_BT: Tensor) -> Tensor:
    """Return the vectors of tokens, each of which one rank has."""
    is_own_BT = (ids_BT >= cut.begin) & (ids_BT < cut.end)
    x_BTD = forward((ids_BT - cut.begin).clamp(0, cut.end - cut.begin - 1))
    return sum_over_ranks(x_BTD * is_own_BT[..., None].to(x_BTD.dtype), cut.group)


def _output(forward: Callable[[Tensor], Tensor], cut: Cut, x_BTD: Tensor) -> Tensor:
    """Return the logits of the whole vocabulary."""
    return gather_outputs(forward(x_BTD), cut.begin, cut.size, cut.group)


def gather_part(part: Tensor, cut: Cut) -> Tensor:
    """Return the whole of a tensor that all ranks of an axis have parts of, which all of them call."""
    first = part.movedim(cut.axis, 0).contiguous()
    padded = F.pad(first, (*[0] * (2 * first.dim() - 1), cut.most - len(first)))
    return gather_over_ranks(padded, cut.group)[: cut.size].movedim(0, cut.axis).contiguous()
