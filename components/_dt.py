"""Time steps of state spaces, dt: softplus, its inverse as an initialization, and the check of their range."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_DT = 1e-4  # dt_init_floor of the authors' code of Mamba


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x) as -logsigmoid(-x), whose gradient torch.compile takes in any memory layout."""
    return -F.logsigmoid(-x)


def init_dt_bias_(bias: Tensor, dt_min: float, dt_max: float) -> Tensor:
    """Fill a bias so that its softplus is log-uniform between dt_min and dt_max, and at least 0.0001.

    The inverse of softplus is log(e^dt - 1) = dt + log(1 - e^-dt); expm1 keeps the digits of a small dt.
    """
    dt = torch.empty_like(bias).uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=MIN_DT)
    return bias.copy_(dt + (-torch.expm1(-dt)).log())


def check_dt_range(dt_min: float, dt_max: float) -> None:
    """Raise ValueError where dt_min is above dt_max."""
    if dt_min > dt_max:
        raise ValueError(f"dt_min {dt_min} is above dt_max {dt_max}")
