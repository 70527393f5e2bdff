"""Experts of a mixture: feed-forward layers, gated or not, whose matrices are in one tensor.

Letters in suffixes: N tokens, K experts of a token, E experts, D features, H hidden features, R rows, one for each
token and each of its experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.components._init import Init
from archlab.ops.grouped_linear import grouped_linear

from ._gated import GatedMLP
from .mlp import MLP


@dataclass(frozen=True)
class GatedUnit:
    """g * sigmoid(slope * g) * (u + offset) of a gate g up to `clamp`, and of u between -clamp and clamp."""

    slope: float = 1.0
    offset: float = 0.0
    clamp: float | None = None

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return the hidden features."""
        if self.clamp is not None:
            gate, up = gate.clamp(max=self.clamp), up.clamp(-self.clamp, self.clamp)
        opened = F.silu(gate) if self.slope == 1 else gate * torch.sigmoid(self.slope * gate)
        return opened * (up + self.offset if self.offset else up)


class Experts(nn.Module):
    """Sum of down(unit(gate x, up x)) of the experts of each token, weighted; no token is dropped.

    Without a unit an expert has no gate: it is down(relu(up x)^2).
    x: [N, D], experts [N, K] and their weights [N, K] -> [N, D].  Of the biases of `down`, `sum_biases` gives the sum.
    """

    adds_over_inputs = True  # of `down`, which ranks may divide: see archlab.parallel.division
    gate: nn.Parameter | None
    gate_bias: nn.Parameter | None
    up_bias: nn.Parameter | None
    down_bias: nn.Parameter | None

    def __init__(
        self, dim: int, num_experts: int, hidden_dim: int, init: Init, *, unit: GatedUnit | None, bias: bool = False
    ) -> None:
        super().__init__()
        self.init, self.unit = init, unit
        gate = None if unit is None else nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.register_parameter("gate", gate)
        self.up = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.down = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        for name, width in (("gate_bias", hidden_dim), ("up_bias", hidden_dim), ("down_bias", dim)):
            has_bias = bias and not (name == "gate_bias" and unit is None)
            self.register_parameter(name, nn.Parameter(torch.empty(num_experts, width)) if has_bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw each expert's matrices like those of a layer of its own, with biases of zero."""
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.zeros_(parameter)
                continue
            outputs, inputs = parameter.shape[1:]
            if self.init == "xavier":
                bound = (6 / (inputs + outputs)) ** 0.5
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.normal_(parameter, std=0.02 if self.init == "normal" else (3 * inputs) ** -0.5)

    def forward(self, x_ND: Tensor, expert_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """Sort the tokens by expert, run every expert on its own, and sum the outputs of each token."""
        K = expert_NK.shape[1]
        expert_R = expert_NK.flatten()
        order_R = expert_R.argsort()  # in any order within an expert
        counts_E = count_experts(expert_R[None], len(self.up))[0]
        hidden_RH = self._hidden(x_ND[order_R // K], expert_R[order_R], counts_E)
        y_RD = grouped_linear(hidden_RH, self.down, counts_E)
        # By the inverse order and a sum, since adding rows to their tokens in place has no fixed order on a GPU.
        y_NKD = y_RD[order_R.argsort()].unflatten(0, (-1, K))
        return (y_NKD * weight_NK[..., None]).sum(1).to(y_RD.dtype)

    def _hidden(self, x_RD: Tensor, expert_R: Tensor, counts_E: Tensor) -> Tensor:
        """Return the hidden features of sorted rows."""
        up_RH = grouped_linear(x_RD, self.up, counts_E)
        if self.up_bias is not None:
            up_RH = up_RH + _look_up(self.up_bias, expert_R)
        if self.gate is None or self.unit is None:
            return F.relu(up_RH).square()
        gate_RH = grouped_linear(x_RD, self.gate, counts_E)
        if self.gate_bias is not None:
            gate_RH = gate_RH + _look_up(self.gate_bias, expert_R)
        return self.unit(gate_RH, up_RH)

    def sum_biases(self, expert_NK: Tensor, weight_NK: Tensor) -> Tensor | None:
        """Return the weighted sum of the biases of `down` [N, D], which is whole where ranks divide its matrices."""
        if self.down_bias is None:
            return None
        return (_look_up(self.down_bias, expert_NK) * weight_NK[..., None]).sum(-2)


def _look_up(bias_EH: Tensor, expert: Tensor) -> Tensor:
    # As an embedding, whose gradient is summed in a fixed order on a GPU, unlike that of an index.
    return F.embedding(expert, bias_EH)


def count_experts(expert_BR: Tensor, num_experts: int) -> Tensor:
    """Return how many rows of each sample are of each expert [B, E], int64."""
    counts_BE = expert_BR.new_zeros(expert_BR.shape[0], num_experts)
    return counts_BE.scatter_add(1, expert_BR, torch.ones_like(expert_BR))


class SharedExpert(GatedMLP):
    """An expert that every token has, down(silu(gate x) * up x).

    x: [..., D] -> [..., D].
    """

    def activate(self, gate: Tensor) -> Tensor:
        """Return silu(gate)."""
        return F.silu(gate)


def shared_expert(dim: int, hidden_dim: int, activation: str, bias: bool, init: Init) -> nn.Module:
    """Return the expert that every token has, of the kind of the others."""
    if activation == "relu2":
        return MLP(dim, hidden_dim=hidden_dim, activation="relu2", bias=bias, init=init)
    return SharedExpert(dim, hidden_dim=hidden_dim, bias=bias, dropout=0, init=init)
