"""torch's fused AdamW, of whole parameters and of those that ranks divide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from archlab import AdamSettings, TrainedParam


def build_adamw(groups: list[dict[str, Any]], adam: AdamSettings) -> torch.optim.AdamW:
    """Return a fused AdamW of parameter groups."""
    kinds = {isinstance(parameter, DTensor) for group in groups for parameter in group["params"]}
    optimizer = MixedAdamW if len(kinds) > 1 else torch.optim.AdamW
    return optimizer(groups, betas=adam.betas, eps=adam.eps, fused=True)


def adam_shapes(param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of Adam's moments, and of its count of steps."""
    return {"step": (), "exp_avg": param.shape, "exp_avg_sq": param.shape}


class MixedAdamW(torch.optim.AdamW):
    """AdamW of parameters of which some are divided and some are whole, which no fused step takes together."""

    def step(self, closure: Any = None) -> Any:
        """Make the step of both kinds one after the other."""
        groups = self.param_groups
        parts = [
            (group, [p for p in group["params"] if isinstance(p, DTensor) == is_divided])
            for group in groups
            for is_divided in (True, False)
        ]
        self.param_groups = [{**group, "params": params} for group, params in parts if params]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups
