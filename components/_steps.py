"""The steps of state spaces, and how they begin."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_STEP = 1e-4


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x), in a form whose gradient torch.compile takes in any memory layout."""
    return -F.logsigmoid(-x)


def init_dt_bias_(bias: Tensor, min_step: float, max_step: float) -> Tensor:
    """Fill a bias so that its softplus is even in the logarithm between two steps, and at least 0.0001."""
    steps = torch.empty_like(bias).uniform_(math.log(min_step), math.log(max_step)).exp_().clamp_(min=LEAST_STEP)
    return bias.copy_(steps + (-torch.expm1(-steps)).log())


def require_order(min_step: float, max_step: float) -> None:
    """Raise ValueError where the least step is the larger one."""
    if min_step > max_step:
        raise ValueError(f"min_step {min_step} is above max_step {max_step}")
