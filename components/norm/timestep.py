from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn

from archlab import Count, Positive, Range, Recurrent, State, choice, register
from archlab.components.norm._affine import SCALE_AND_SHIFT
from archlab.ops.dtypes import at_least_float32
from archlab.ops.timestep_norm import timestep_norm, total_weight

Forgetting: TypeAlias = Annotated[float, Range(low=0, above=True, high=1)]


@register(
    "norm",
    "timestep",
    search={"num_groups": choice(1, 4, 16, 32), "decay": choice(0.99, 0.999, 0.9999, 1.0)},
    params=SCALE_AND_SHIFT,
    carry="associative",
)
class TimestepNorm(Recurrent):
    """Group normalization by the statistics of all steps so far, Megalodon section 3.2 (arXiv:2404.08801).

    x: [B, T, D] -> [B, T, D].  State: count [B] steps, mean and var [B, G] in float64, so that single
    late steps still move them. The scale is 1 + weight.
    Raises ValueError where num_groups does not divide D.

    Args:
        num_groups: Number of groups of contiguous channels, each normalized by its own statistics.
        eps: Constant added to the variance.
        decay: Forgetting factor: at each step the weight of all earlier ones in the statistics is multiplied by it, so
            that they are those of the last 1 / (1 - decay) steps or so; 1 forgets nothing.
    """

    def __init__(self, dim: int, *, num_groups: Count = 32, eps: Positive = 1e-5, decay: Forgetting = 1.0) -> None:
        super().__init__()
        if dim % num_groups:
            raise ValueError(f"dim {dim} is not divisible by num_groups {num_groups}")
        self.num_groups, self.eps, self.decay = num_groups, eps, decay
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the scale to one and the shift to zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def init_state(self, batch_size: int) -> State:
        """Return a count of 0, with which the first step's statistics replace mean 0 and variance 1."""
        mean = self.weight.new_zeros(batch_size, self.num_groups, dtype=torch.float64)
        count = torch.zeros(batch_size, dtype=torch.int64, device=mean.device)
        return {"count": count, "mean": mean, "var": torch.ones_like(mean)}

    def summarize(self, x_BTD: Tensor) -> State:
        """Return the number of steps of a piece, and their mean and sum of squared distances from it in each group."""
        x_BTGK = at_least_float32(x_BTD).unflatten(-1, (self.num_groups, -1))
        if self.decay < 1:
            return self._summarize_decayed(x_BTGK)
        var_BG, mean_BG = (part.double() for part in torch.var_mean(x_BTGK, (1, 3), correction=0))
        count_B1 = torch.full_like(mean_BG[:, :1], x_BTD.shape[1])
        return {"count": count_B1, "mean": mean_BG, "distance": count_B1 * var_BG}

    def _summarize_decayed(self, x_BTGK: Tensor) -> State:
        """Return the same, each step weighted by its decay up to the last one."""
        var_BTG, mean_BTG = (part.double() for part in torch.var_mean(x_BTGK, 3, correction=0))
        count_B1 = torch.full_like(mean_BTG[:, 0, :1], x_BTGK.shape[1])
        age_T = torch.arange(x_BTGK.shape[1] - 1, -1, -1, device=x_BTGK.device, dtype=torch.float64)
        weight_T1 = (self.decay**age_T)[:, None]
        mean_BG = (weight_T1 * mean_BTG).sum(1) / total_weight(count_B1, self.decay)
        distance_BG = (weight_T1 * (var_BTG + (mean_BTG - mean_BG[:, None]).square())).sum(1)
        return {"count": count_B1, "mean": mean_BG, "distance": distance_BG}

    def merge(self, earlier: State, later: State) -> State:
        """Return the statistics of two pieces (Chan, Golub and LeVeque, 1979)."""
        kept_B1 = self.decay ** later["count"]
        old_B1, new_B1 = (total_weight(piece["count"], self.decay) for piece in (earlier, later))
        old_B1, shift_BG = kept_B1 * old_B1, later["mean"] - earlier["mean"]
        share_B1 = new_B1 / (old_B1 + new_B1)
        between_BG = shift_BG.square() * old_B1 * share_B1
        distance_BG = kept_B1 * earlier["distance"] + later["distance"] + between_BG
        count_B1, mean_BG = earlier["count"] + later["count"], earlier["mean"] + share_B1 * shift_BG
        return {"count": count_B1, "mean": mean_BG, "distance": distance_BG}

    def enter(self, summary: State) -> State:
        """Return the state after the pieces of a summary."""
        count_B1 = summary["count"]
        var_BG = summary["distance"] / total_weight(count_B1, self.decay)
        return {"count": count_B1[:, 0].long(), "mean": summary["mean"], "var": var_BG}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Normalize each step by the mean and variance of its group up to and including itself."""
        state = state or self.init_state(x_BTD.shape[0])
        scale_D, bias_D = 1 + at_least_float32(self.weight), at_least_float32(self.bias)
        carried = state["count"], state["mean"], state["var"]
        y_BTD, mean, var = timestep_norm(x_BTD, scale_D, bias_D, *carried, self.eps, self.decay)
        return y_BTD, {"count": state["count"] + x_BTD.shape[1], "mean": mean, "var": var}
