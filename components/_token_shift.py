"""The token before each one."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import Recurrent, State


class TokenShift(Recurrent):
    """Every input one step late, zeros before the first, RWKV section 3.1 (arXiv:2305.13048).

    x: [B, T, D] -> [B, T, D].  State: last [B, D], the latest input.
    """

    _like: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def init_state(self, batch_size: int) -> State:
        """Return zeros before the first token."""
        return {"last": self._like.new_zeros(batch_size, self.dim)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the input before each one."""
        last = (state or self.init_state(x_BTD.shape[0]))["last"]
        past_BTD = torch.cat((last[:, None].to(x_BTD.dtype), x_BTD[:, :-1]), dim=1)
        return past_BTD, {"last": x_BTD[:, -1].to(last.dtype, copy=True)}


def channel_fraction(parameter: Tensor) -> Tensor:
    """Return i / D for the i-th of D channels, what the shares of the past and the decays of RWKV begin with."""
    D = parameter.shape[-1]
    return torch.arange(D, dtype=parameter.dtype, device=parameter.device) / D
