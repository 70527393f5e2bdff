"""Token shift: the input of the previous token."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import Recurrent, State


class TokenShift(Recurrent):
    """Delay by one token, with zeros before the first, RWKV section 3.1 (arXiv:2305.13048).

    x: [B, T, D] -> [B, T, D].  State: last [B, D], the latest input.
    """

    _device_anchor: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        # A module without parameters has no other tensor that .to(device, dtype) moves: init_state allocates like it.
        # One element and no scalar: Dynamo reads a float64 scalar on the CPU as a Python float, which it then
        # specializes by tracing the whole model a second time (torch 2.13).
        self.register_buffer("_device_anchor", torch.zeros(1), persistent=False)

    def init_state(self, batch_size: int) -> State:
        """Return zeros before the first token."""
        return {"last": self._device_anchor.new_zeros(batch_size, self.dim)}

    def summarize(self, x_BTD: Tensor) -> State:
        """Return the latest input of a piece."""
        return {"last": x_BTD[:, -1]}

    def merge(self, earlier: State, later: State) -> State:
        """Return the latest input of two pieces."""
        return later

    def enter(self, summary: State) -> State:
        """Return the state after the pieces of a summary."""
        return {"last": summary["last"].to(self._device_anchor.dtype)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the previous input of each token."""
        last = (state or self.init_state(x_BTD.shape[0]))["last"]
        past_BTD = torch.cat((last[:, None].to(x_BTD.dtype), x_BTD[:, :-1]), dim=1)
        return past_BTD, {"last": x_BTD[:, -1].to(last.dtype, copy=True)}


def channel_fraction(parameter: Tensor) -> Tensor:
    """Return i / D for channel i of D, from which RWKV initializes its token-shift mixes and decays."""
    D = parameter.shape[-1]
    return torch.arange(D, dtype=parameter.dtype, device=parameter.device) / D
