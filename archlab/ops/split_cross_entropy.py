"""Linear layer and cross-entropy fused, with the vocabulary divided among ranks: no rank has the logits of all of it.

Letters in suffixes: N tokens, R tokens of a chunk, D channels, V the rank's part of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archlab.ops.dtypes import at_least_float32, product_dtype
from archlab.ops.linear_cross_entropy import IGNORED, MAX_CHUNK_LOGITS, MIN_CHUNK_TOKENS, cap_logits
from archlab.ops.rank_sum import max_over_ranks, sum_over_ranks


def split_cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, first: int, group: str, soft_cap: float = 0.0
) -> Tensor:
    """Return the sum of -log softmax(x weightᵀ)[target] in nats, over targets other than -100, the same in all ranks.

    A rank has the rows of the weight from `first` on. As `linear_cross_entropy`, it computes gradients chunk by chunk,
    while a chunk's logits exist; ranks exchange three numbers a token.
    """
    dtype = product_dtype(x_ND)
    total: Tensor = _SplitCrossEntropy.apply(x_ND.to(dtype), weight_VD.to(dtype), target_N, first, group, soft_cap)
    return total


class _SplitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, first: int, group: str, soft_cap: float
    ) -> Tensor:
        dx_ND, dweight_VD = torch.empty_like(x_ND), at_least_float32(torch.zeros_like(weight_VD))
        total = dweight_VD.new_zeros(())
        rows = max(MIN_CHUNK_TOKENS, MAX_CHUNK_LOGITS // len(weight_VD))
        for x_RD, target_R, dx_RD in zip(x_ND.split(rows), target_N.split(rows), dx_ND.split(rows), strict=True):
            logits_RV, slope_RV = cap_logits(at_least_float32(x_RD @ weight_VD.mT), soft_cap)
            loss, dlogits_RV = _loss_and_gradient(logits_RV, target_R, first, group)
            total += loss
            dlogits_RV = (dlogits_RV if slope_RV is None else dlogits_RV * slope_RV).to(x_RD.dtype)
            dx_RD.copy_(dlogits_RV @ weight_VD)
            dweight_VD += dlogits_RV.mT @ x_RD
        ctx.save_for_backward(dx_ND, dweight_VD.to(weight_VD.dtype))
        ctx.group = group
        return total

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        # All ranks have returned this loss, and each reads its part of it.
        factor = sum_over_ranks(dtotal, ctx.group)
        # In at least float32: a factor such as 1 / 1000, rounded to bfloat16, would scale all gradients by a wrong one.
        scaled = ((at_least_float32(x) * factor).to(x.dtype) for x in ctx.saved_tensors)
        return (*scaled, None, None, None, None)


def _loss_and_gradient(logits_RV: Tensor, target_R: Tensor, first: int, group: str) -> tuple[Tensor, Tensor]:
    """Return the sum of a chunk's losses, and its gradient with respect to the rank's logits."""
    peak_R1 = max_over_ranks(logits_RV.amax(-1, keepdim=True), group)
    place_R = target_R - first
    is_own_R1 = ((place_R >= 0) & (place_R < logits_RV.shape[-1]))[:, None]
    place_R1 = place_R[:, None].clamp(0, logits_RV.shape[-1] - 1)
    target_R1 = logits_RV.gather(-1, place_R1) * is_own_R1
    weight_RV = (logits_RV - peak_R1).exp_()
    sums_R2 = sum_over_ranks(torch.cat((weight_RV.sum(-1, keepdim=True), target_R1), -1), group)
    counted_R = target_R != IGNORED
    loss = ((peak_R1[:, 0] + sums_R2[:, 0].log() - sums_R2[:, 1]) * counted_R).sum()
    gradient_RV = weight_RV.div_(sums_R2[:, :1])
    gradient_RV.scatter_add_(-1, place_R1, -is_own_R1.to(gradient_RV.dtype))
    return loss, gradient_RV.mul_(counted_R[:, None])
