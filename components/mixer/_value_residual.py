"""Value residuals: the values of the first layer that has one, mixed into those of later layers.

Letters in suffixes: B batch, T time, D features, V the values of all heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._low_rank import LowRank


class ValueResidual(nn.Module):
    """Values of a mixer's `value_residual`: whether it shares its values with later layers, or receives the first's.

    The backbone says which, as soon as it has all layers; the mixer of a model's only such layer does neither. One that
    gives returns a pair of its output and a mapping with its values, and one that receives is called with them, as
    `first_values_BTV`.
    """

    mix: nn.Module | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.gives, self.mix = width, False, None

    def give(self) -> None:
        """Have the mixer return its values."""
        self.gives = True

    def receive(self) -> None:
        """Have the mixer mix other values into its own, by parameters that a layer without them has not."""
        self.mix = self.make_mix()

    def make_mix(self) -> nn.Module:
        """Return a module that maps own values, the first layer's, and the input of the projection to the own ones."""
        raise NotImplementedError


def mix_values(residual: ValueResidual | None, v_BTV: Tensor, first_BTV: Tensor | None, x_BTD: Tensor) -> Tensor:
    """Return the values of a mixer, projections of x, with those of the first layer in them if it receives them."""
    if residual is None or residual.mix is None:
        return v_BTV
    assert first_BTV is not None, "the backbone that had this layer receive values calls it without them"
    if first_BTV.shape != v_BTV.shape:
        problem = f"values of {first_BTV.shape[-1]} and of {v_BTV.shape[-1]} features cannot be mixed"
        raise ValueError(f"{problem}: ranks divide one layer with a value_residual, and another not")
    mixed_BTV: Tensor = residual.mix(v_BTV, first_BTV, x_BTD)
    return mixed_BTV


def given_values(residual: ValueResidual | None, v_BTV: Tensor) -> dict[str, Any]:
    """Return the values of a mixer by their name in the calls of later layers, if it gives them to these."""
    return {"first_values_BTV": v_BTV} if residual is not None and residual.gives else {}


def with_shared_values(y_BTD: Tensor, given: dict[str, Any]) -> Tensor | tuple[Tensor, dict[str, Any]]:
    """Return the output of a mixer, and the values that it shares with later layers, if any."""
    return (y_BTD, given) if given else y_BTD


class WeightedValues(ValueResidual):
    """Two learned numbers, a v + b v_first, as in learnable ResFormer (arXiv:2410.17897)."""

    def make_mix(self) -> nn.Module:
        """Return the weighted sum."""
        return WeightedSum()


class WeightedSum(nn.Module):
    """The sum of two tensors by two learned weights, initially halves."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with the mean."""
        nn.init.constant_(self.weights, 0.5)

    def forward(self, v_BTV: Tensor, first_BTV: Tensor, _: Tensor) -> Tensor:
        """Add."""
        own, first = self.weights.to(v_BTV.dtype).unbind()
        return own * v_BTV + first * first_BTV


class GatedValues(ValueResidual):
    """A gate per feature and token, as in RWKV-7 (arXiv:2503.14456)."""

    def __init__(self, dim: int, rank: int, width: int) -> None:
        super().__init__(width)
        self.dim, self.rank = dim, rank

    def make_mix(self) -> nn.Module:
        """Return the gate."""
        return GatedMix(self.dim, self.rank, self.width)


class GatedMix(nn.Module):
    """Moves values towards the first layer's, by the sigmoid of a low-rank function of the projection's input."""

    def __init__(self, dim: int, rank: int, width: int) -> None:
        super().__init__()
        self.gate = LowRank(dim, rank, width, activation=nn.Identity())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin nearer to the first layer's values, for all tokens alike."""
        nn.init.ones_(self.gate.up.bias)

    def forward(self, v_BTV: Tensor, first_BTV: Tensor, x_BTD: Tensor) -> Tensor:
        """Interpolate."""
        return v_BTV + (first_BTV - v_BTV) * self.gate(x_BTD).sigmoid()
