from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab.domains import Count, Positive, choice
from archlab.ops.precision import at_least_float32
from archlab.registry import register
from archlab.state import Recurrent, State


@register("norm", "timestep", search={"num_groups": choice(1, 4, 16, 32)})
class TimestepNorm(Recurrent):
    """Group normalisation by the statistics of all steps so far, Megalodon section 3.2 (arXiv:2404.08801).

    x: [B, T, D] -> [B, T, D].  State: count [B] steps, mean and var [B, G] in float64, so that single
    late steps still move them. The scale is 1 + weight.
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
        mean = self.weight.new_zeros(batch_size, self.num_groups, dtype=torch.float64)
        count = torch.zeros(batch_size, dtype=torch.int64, device=mean.device)
        return {"count": count, "mean": mean, "var": torch.ones_like(mean)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Normalise each step by the mean and variance of its group up to and including itself."""
        state = state or self.init_state(x_BTD.shape[0])
        x_BTGK = at_least_float32(x_BTD).unflatten(-1, (self.num_groups, -1))
        near_BG = _point_near_the_mean(x_BTGK, state)
        distance_BTGK = x_BTGK - near_BG[:, None, :, None]
        shift_BTG, var_BTG = _running_moments(distance_BTGK, near_BG, state)
        rate_BTG = torch.rsqrt(var_BTG + self.eps).to(x_BTGK.dtype)
        centred_BTGK = distance_BTGK - shift_BTG[..., None].to(x_BTGK.dtype)
        y_BTD = (centred_BTGK * rate_BTG[..., None]).flatten(-2)
        y_BTD = y_BTD * (1 + at_least_float32(self.weight)) + at_least_float32(self.bias)
        moments = {"mean": near_BG.double() + shift_BTG[:, -1], "var": var_BTG[:, -1].clone()}
        return y_BTD.to(x_BTD.dtype), {"count": state["count"] + x_BTD.shape[1]} | moments


def _point_near_the_mean(x_BTGK: Tensor, state: State) -> Tensor:
    """Return the carried mean of each group, that of the first step where none is carried; [B, G], without gradient."""
    carried = state["count"][:, None] > 0
    return torch.where(carried, state["mean"].to(x_BTGK.dtype), x_BTGK[:, 0].mean(-1)).detach()


def _running_moments(distance_BTGK: Tensor, near_BG: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Return each group's mean, seen from `near`, and its population variance over all steps so far, both [B, T, G].

    The sums are of distances from that fixed point and are merged once with the carried statistics, so that
    they stay exact where the mean is far larger than the deviation.
    """
    seen_B1 = state["count"][:, None]
    # Next to zero, but the way back to the carried mean for gradients.
    off_BG = torch.where(seen_B1 > 0, state["mean"].double() - near_BG, 0.0)
    steps_BT1 = (seen_B1 + torch.arange(1, distance_BTGK.shape[1] + 1, device=near_BG.device)).double()[..., None]
    carried = (seen_B1 * off_BG, seen_B1 * (state["var"].double() + off_BG**2))
    first = (distance_BTGK.mean(-1).double().cumsum(1) + carried[0][:, None]) / steps_BT1
    second = (distance_BTGK.square().mean(-1).double().cumsum(1) + carried[1][:, None]) / steps_BT1
    return first, (second - first.square()).clamp(min=0)
