"""Initializations of weight matrices."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor, nn

Init: TypeAlias = Literal["he", "xavier", "normal"]
TokenInit: TypeAlias = Literal["truncated", "normal"]


def linear(num_in: int, num_out: int, *, bias: bool, init: Init) -> InitLinear:
    """Return a linear layer with the named initialization."""
    return InitLinear(num_in, num_out, bias=bias, init=init)


class InitLinear(nn.Linear):
    """y = x Wᵀ + b with W he N(0, 1/(3 num_in)), xavier uniform, or normal N(0, 0.02²), and b = 0.

    The variance 1/(3 num_in) is that of PyTorch's default, he uniform with a = sqrt(5), as a normal distribution.
    """

    def __init__(self, num_in: int, num_out: int, *, bias: bool, init: Init) -> None:
        self.init = init  # before nn.Linear, whose constructor calls reset_parameters
        super().__init__(num_in, num_out, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weight and zero the bias."""
        if self.init == "xavier":
            nn.init.xavier_uniform_(self.weight)
        else:
            nn.init.normal_(self.weight, std=0.02 if self.init == "normal" else (3 * self.in_features) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def truncated_normal_(tensor: Tensor, std: float, cut: float) -> Tensor:
    """Fill with N(0, std²) truncated to [-cut, cut], where the cut is a value, not a number of deviations."""
    return nn.init.trunc_normal_(tensor, std=std, a=-cut, b=cut)


def init_tokens_(weight_VD: Tensor, init: TokenInit) -> Tensor:
    """Fill the weight of an embedding or a head with N(0, 1/D) truncated at 3 deviations, or with N(0, 0.02²)."""
    std = weight_VD.shape[-1] ** -0.5
    return truncated_normal_(weight_VD, std, 3 * std) if init == "truncated" else nn.init.normal_(weight_VD, std=0.02)
