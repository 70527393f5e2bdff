"""Group normalization by the statistics of all steps so far, Megalodon section 3.2 (arXiv:2404.08801).

Letters in suffixes: B batch, T time, D channels, G groups, K channels a group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from archlab.ops.diagonal_scan import Decay, diagonal_scan
from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32


def timestep_norm(
    x_BTD: Tensor,
    scale_D: Tensor,
    bias_D: Tensor,
    count_B: Tensor,
    mean_BG: Tensor,
    var_BG: Tensor,
    eps: float,
    decay: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize each step by the mean and variance of its group over the `count` steps carried and all up to itself.

    Return y [B, T, D] in x's dtype, and the last mean and variance [B, G] in float64. Normalized steps are scaled by
    `scale` and shifted by `bias`. Where `count` is 0 the carried mean and variance are ignored. A step's weight in the
    statistics is multiplied by `decay`, above 0 and at most 1, at each later step. The device's backend computes it
    where there is one, and nothing decays.
    """
    backend = find_backend("timestep_norm", x_BTD) if decay == 1 else None
    if backend is not None:
        y_BTD, mean_BG, var_BG = backend(x_BTD, scale_D, bias_D, count_B, mean_BG, var_BG, eps)
        return y_BTD, mean_BG, var_BG
    x_BTGK = at_least_float32(x_BTD).unflatten(-1, (mean_BG.shape[1], -1))
    # Moments are taken of distances from a fixed point near the mean. E[x²] - E[x]² cancels where the mean is much
    # larger than the deviation, while E[d²] - E[d]² of such distances d does not: E[d] is as small as they are.
    near_BG = _reference_point(x_BTGK, count_B, mean_BG)
    distance_BTGK = x_BTGK - near_BG[:, None, :, None]
    shift_BTG, var_BTG = _running_moments(distance_BTGK, near_BG, count_B, mean_BG, var_BG, decay)
    rate_BTG = torch.rsqrt(var_BTG + eps).to(x_BTGK.dtype)
    centered_BTGK = distance_BTGK - shift_BTG[..., None].to(x_BTGK.dtype)
    y_BTD = (centered_BTGK * rate_BTG[..., None]).flatten(-2)
    y_BTD = y_BTD * at_least_float32(scale_D) + at_least_float32(bias_D)
    return y_BTD.to(x_BTD.dtype), near_BG.double() + shift_BTG[:, -1], var_BTG[:, -1].clone()


def timestep_norm_reference(
    x_BTD: Tensor,
    scale_D: Tensor,
    bias_D: Tensor,
    count_B: Tensor,
    mean_BG: Tensor,
    var_BG: Tensor,
    eps: float,
    decay: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the same step by step in float64, merging each into the moments (Welford): the definition, for tests."""
    seen_B1, mean_BG, var_BG, outputs = total_weight(count_B, decay)[:, None], mean_BG.double(), var_BG.double(), []
    for x_BD in x_BTD.double().unbind(1):
        x_BGK = x_BD.unflatten(-1, (mean_BG.shape[1], -1))
        from_mean_BG = x_BGK.mean(-1) - mean_BG
        new_B1 = 1 / (decay * seen_B1 + 1)
        within_BG = x_BGK.var(-1, correction=0) + (1 - new_B1) * from_mean_BG**2
        mean_BG, var_BG = mean_BG + new_B1 * from_mean_BG, (1 - new_B1) * var_BG + new_B1 * within_BG
        seen_B1 = decay * seen_B1 + 1
        normal_BGK = (x_BGK - mean_BG[..., None]) / (var_BG[..., None] + eps).sqrt()
        outputs.append(normal_BGK.flatten(1) * scale_D.double() + bias_D.double())
    return torch.stack(outputs, 1).to(x_BTD.dtype), mean_BG, var_BG


def total_weight(count: Tensor, decay: float) -> Tensor:
    """Return the sum of the weights of the given number of steps, 1 + decay + decay² + ..., in float64."""
    if decay == 1:
        return count.double()
    return torch.expm1(count.double() * math.log(decay)) / (decay - 1)


def _reference_point(x_BTGK: Tensor, count_B: Tensor, mean_BG: Tensor) -> Tensor:
    """Return each group's carried mean, or the first step's mean where none is carried, as a constant [B, G]."""
    # The outputs do not depend on this point, so its gradient is zero, and it is detached.
    carried_B1 = count_B[:, None] > 0
    return torch.where(carried_B1, mean_BG.to(x_BTGK.dtype), x_BTGK[:, 0].mean(-1)).detach()


def _running_moments(
    distance_BTGK: Tensor, near_BG: Tensor, count_B: Tensor, mean_BG: Tensor, var_BG: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """Return each group's mean relative to `near` and its population variance over all steps so far, both [B, T, G]."""
    seen_B1 = count_B[:, None]
    # The carried mean relative to `near`: about zero (`near` is that mean, rounded), but its gradient is needed.
    off_BG = torch.where(seen_B1 > 0, mean_BG.double() - near_BG, 0.0)
    steps_BT = seen_B1 + torch.arange(1, distance_BTGK.shape[1] + 1, device=near_BG.device)
    carried_B1, weight_BT1 = total_weight(seen_B1, decay), total_weight(steps_BT, decay)[..., None]
    # Sums carried from earlier steps: of d, and of d², whose mean is var + off².
    carried = (carried_B1 * off_BG, carried_B1 * (var_BG.double() + off_BG**2))
    step_mean_BTG = distance_BTGK.mean(-1)
    first = _running_sum(step_mean_BTG, carried[0], decay) / weight_BT1
    second = _running_sum(_mean_square(distance_BTGK, step_mean_BTG, decay), carried[1], decay) / weight_BT1
    return first, (second - first.square()).clamp(min=0)  # rounding may leave it just below zero


def _mean_square(distance_BTGK: Tensor, mean_BTG: Tensor, decay: float) -> Tensor:
    """Return the mean of the squares of each step."""
    if decay == 1:
        return distance_BTGK.square().mean(-1)
    # Once steps near the fixed point are forgotten, all others may be far from it, where squares in float32 cancel.
    return distance_BTGK.var(-1, correction=0).double() + mean_BTG.double().square()


def _running_sum(x_BTG: Tensor, carried_BG: Tensor, decay: float) -> Tensor:
    """Return the sum of all steps so far and of the carried sum, both decayed at every step, in float64."""
    if decay == 1:
        # Of a single step without a scan, so that a compiler fuses it.
        return (x_BTG.double() if x_BTG.shape[1] == 1 else x_BTG.double().cumsum(1)) + carried_BG[:, None]
    weight_G11 = carried_BG.new_ones(carried_BG.shape[1], 1, 1)
    factor = Decay(torch.full_like(weight_G11[..., 0], math.log(decay)), None)
    return diagonal_scan(x_BTG, factor, weight_G11, carried_BG[..., None, None])[0]
