"""The loss of predicted tokens, a part of the tokens at a time: scores of all tokens against all words never exist.

Letters in suffixes: N tokens, R tokens of a part, D channels, V words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32, product_dtype

IGNORED = -100
MAX_CHUNK_LOGITS, MIN_CHUNK_TOKENS = 2**23, 256  # scores, and tokens, of a part


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """Return the mean of -log softmax(x weightᵀ)[target] in nats, over targets other than -100.

    Equals the cross-entropy of the whole [N, V] scores. Gradients are made on the way, part by part, with each part's
    scores at hand, so that nothing is computed twice. Products are in autocast's type where it is on.
    """
    dtype = product_dtype(x_ND)
    total, _, _ = _linear_cross_entropy(x_ND.to(dtype), weight_VD.to(dtype), target_N)
    return total / (target_N != IGNORED).sum()


def linear_cross_entropy_reference(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Tensor:
    """Do the same with all scores at once: the definition, for tests."""
    return F.cross_entropy(at_least_float32(F.linear(x_ND, weight_VD)), target_N, ignore_index=IGNORED)


@torch.library.custom_op("archlab::token_loss", mutates_args=())
def _linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum over tokens, and its gradients by x and weight."""
    dx_ND, dweight_VD = torch.empty_like(x_ND), at_least_float32(torch.zeros_like(weight_VD))
    total = dweight_VD.new_zeros(())
    rows = max(MIN_CHUNK_TOKENS, MAX_CHUNK_LOGITS // len(weight_VD))
    for x_RD, target_R, dx_RD in zip(x_ND.split(rows), target_N.split(rows), dx_ND.split(rows), strict=True):
        scores_RV = x_RD @ weight_VD.mT
        body = find_backend("logit_gradients", scores_RV) or logit_gradients
        loss, dscores_RV = body(scores_RV, target_R)
        total += loss
        dx_RD.copy_(dscores_RV @ weight_VD)
        _add_product(dweight_VD, dscores_RV.mT, x_RD)
    return total, dx_ND, dweight_VD.to(weight_VD.dtype)


def _add_product(sum_VD: Tensor, a_VR: Tensor, b_RD: Tensor) -> None:
    if sum_VD.dtype == a_VR.dtype:
        sum_VD.addmm_(a_VR, b_RD)
    else:
        sum_VD += a_VR @ b_RD


def logit_gradients(scores_RV: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of some tokens, in at least float32, and its gradient by their scores."""
    log_RV, asked_R1 = at_least_float32(scores_RV).log_softmax(-1), (target_R != IGNORED)[:, None]
    target_R1 = target_R[:, None].clamp(min=0)
    loss = -(log_RV.gather(-1, target_R1) * asked_R1).sum()
    gradient_RV = log_RV.exp_()
    gradient_RV.scatter_add_(-1, target_R1, gradient_RV.new_full((), -1.0).expand(target_R1.shape))
    return loss, gradient_RV.mul_(asked_R1).to(scores_RV.dtype)


@_linear_cross_entropy.register_fake
def _(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    return x_ND.new_empty((), dtype=dtype), torch.empty_like(x_ND), torch.empty_like(weight_VD)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])


def _scale(ctx: Any, dtotal: Tensor, _: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
    dx_ND, dweight_VD = ctx.saved_tensors
    return dx_ND * dtotal.to(dx_ND.dtype), dweight_VD * dtotal.to(dweight_VD.dtype), None


_linear_cross_entropy.register_autograd(_scale, setup_context=_keep)
