"""Experts of a mixture: gated feed-forward layers whose matrices lie in one tensor.

Letters in suffixes: N tokens, K experts of a token, E experts, D features, H hidden features, R rows, one for each
token and each of its experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.components._init import Init
from archlab.ops.grouped_linear import grouped_linear

from ._gated import GatedMLP


class Experts(nn.Module):
    """Sum of down(silu(gate x) * up x) of the experts of each token, weighted; no token is dropped.

    x: [N, D], experts [N, K] and their weights [N, K] -> [N, D].
    """

    adds_over_inputs = True  # of `down`, which ranks may divide: see archlab.parallel.division

    def __init__(self, dim: int, num_experts: int, hidden_dim: int, init: Init) -> None:
        super().__init__()
        self.init = init
        self.gate = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.up = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.down = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw each expert's matrices like those of a layer of its own."""
        for parameter in self.parameters():
            outputs, inputs = parameter.shape[1:]
            if self.init == "xavier":
                bound = (6 / (inputs + outputs)) ** 0.5
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.normal_(parameter, std=0.02 if self.init == "normal" else (3 * inputs) ** -0.5)

    def forward(self, x_ND: Tensor, expert_NK: Tensor, weight_NK: Tensor) -> Tensor:
        """Sort the tokens by expert, run every expert on its own, and add up what each token gets."""
        K = expert_NK.shape[1]
        expert_R = expert_NK.flatten()
        order_R = expert_R.argsort()  # in any order within an expert
        counts_E = count_experts(expert_R[None], len(self.gate))[0]
        x_RD = x_ND[order_R // K]
        hidden_RH = F.silu(grouped_linear(x_RD, self.gate, counts_E)) * grouped_linear(x_RD, self.up, counts_E)
        y_RD = grouped_linear(hidden_RH, self.down, counts_E)
        # By the inverse order and a sum, since adding rows to their tokens in place has no fixed order on a GPU.
        y_NKD = y_RD[order_R.argsort()].unflatten(0, (-1, K))
        return (y_NKD * weight_NK[..., None]).sum(1).to(y_RD.dtype)


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
