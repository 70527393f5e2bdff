from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.components._numerics import at_least_float32
from archlab.domains import Count, Positive, choice
from archlab.registry import register
from archlab.state import Recurrent, State


@register("norm", "timestep", search={"num_groups": choice(1, 4, 16, 32)})
class TimestepNorm(Recurrent):
    """Group normalisation by the statistics of all steps so far, Megalodon section 3.2 (arXiv:2404.08801).

    x: [B, T, D] -> [B, T, D].  State: count [B] steps, mean and var [B, G]. The scale is 1 + weight.
    """

    def __init__(self, dim: int, *, num_groups: Count = 32, eps: Positive = 1e-5) -> None:
        super().__init__()
        if dim % num_groups:
            raise ValueError(f"dim {dim} is not divisible by num_groups {num_groups}")
        self.num_groups, self.eps = num_groups, eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin as the plain normalisation."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def init_state(self, batch_size: int) -> State:
        """Return zero steps seen; the first step's statistics then replace mean 0 and variance 1."""
        mean = at_least_float32(self.weight).new_zeros(batch_size, self.num_groups)
        count = torch.zeros(batch_size, dtype=torch.int64, device=mean.device)
        return {"count": count, "mean": mean, "var": torch.ones_like(mean)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Normalise each step by the mean and variance of its group up to and including itself."""
        state = state or self.init_state(x_BTD.shape[0])
        x_BTGK = at_least_float32(x_BTD).unflatten(-1, (self.num_groups, -1))
        mean_BTG, var_BTG = _running_moments(x_BTGK, state)
        rate_BTG = torch.rsqrt(var_BTG + self.eps)
        y_BTD = ((x_BTGK - mean_BTG[..., None]) * rate_BTG[..., None]).flatten(-2)
        y_BTD = y_BTD * (1 + at_least_float32(self.weight)) + at_least_float32(self.bias)
        count = state["count"] + x_BTD.shape[1]
        return y_BTD.to(x_BTD.dtype), {"count": count, "mean": mean_BTG[:, -1], "var": var_BTG[:, -1]}


def _running_moments(x_BTGK: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Return mean and population variance of each group over all steps so far, both [B, T, G].

    The sums are of distances from a fixed point near the mean and are merged once with the carried
    statistics, so that they stay exact where the mean is far larger than the deviation.
    """
    seen_B1 = state["count"][:, None]
    near_BG = torch.where(seen_B1 > 0, state["mean"].to(x_BTGK.dtype), x_BTGK[:, 0].mean(-1)).detach()
    # Zero, but the way back to the carried mean for gradients.
    off_BG = torch.where(seen_B1 > 0, state["mean"].to(x_BTGK.dtype) - near_BG, 0.0)
    distance = x_BTGK - near_BG[:, None, :, None]
    steps_BT1 = (seen_B1 + torch.arange(1, x_BTGK.shape[1] + 1, device=x_BTGK.device)).double()[..., None]
    carried = (seen_B1.double() * off_BG.double(), seen_B1.double() * (state["var"].double() + off_BG.double() ** 2))
    first = (distance.mean(-1).double().cumsum(1) + carried[0][:, None]) / steps_BT1
    second = (distance.square().mean(-1).double().cumsum(1) + carried[1][:, None]) / steps_BT1
    var_BTG = (second - first.square()).clamp(min=0)
    return (near_BG[:, None].double() + first).to(x_BTGK.dtype), var_BTG.to(x_BTGK.dtype)
