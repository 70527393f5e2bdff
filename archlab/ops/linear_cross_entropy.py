"""Linear layer and cross-entropy fused, one chunk of tokens at a time: the logits of all tokens never exist at once.

Letters in suffixes: N tokens, R tokens of a chunk, D channels, V vocabulary.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32, product_dtype
from archlab.ops.op_costs import Sizes, iter_alike, register_backward_ahead, register_body

IGNORED = -100  # PyTorch's default ignore_index
# A chunk's logits take at most 32 MiB in float32, unless 256 tokens need more: fewer would make thin, slow products.
MAX_CHUNK_LOGITS, MIN_CHUNK_TOKENS = 2**23, 256


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, soft_cap: float = 0.0) -> Tensor:
    """Return the sum of -log softmax(x weightᵀ)[target] in nats, over targets other than -100.

    Equals the cross-entropy of the whole [N, V] logits. The forward pass also computes the gradients, chunk by chunk,
    while a chunk's logits exist, so that no product is computed twice. Products are in autocast's dtype where it is on.
    A `soft_cap` c other than 0 bounds the logits z, each of which becomes c tanh(z / c).
    """
    dtype = product_dtype(x_ND)
    total, _, _ = _linear_cross_entropy(x_ND.to(dtype), weight_VD.to(dtype), target_N, soft_cap)
    return total


def linear_cross_entropy_reference(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, soft_cap: float = 0.0) -> Tensor:
    """Compute the same with all logits at once: the definition, for tests."""
    logits_NV = at_least_float32(F.linear(x_ND, weight_VD))
    logits_NV = soft_cap * (logits_NV / soft_cap).tanh() if soft_cap else logits_NV
    return F.cross_entropy(logits_NV, target_N, ignore_index=IGNORED, reduction="sum")


# Opaque to torch.compile, which would unroll the loop over chunks into one graph, where many chunks' logits may live.
#
# The loss is a scalar, the sum over tokens n of logsumexp(z_n) - z_n[target_n] with logits z_n = x_n weightᵀ. So
#     dz_n = softmax(z_n) - onehot(target_n), zero for an ignored target,
#     dx = dz weight, dweight = dzᵀ x,
# and an upstream gradient, itself a scalar, only scales dx and dweight. The forward pass can therefore compute both
# before that scalar is known. A cap multiplies dz by its slope, 1 - tanh(z / c)².
def _loss_and_gradients(
    x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, soft_cap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the tokens' losses, and its gradients with respect to x and weight."""
    # The weight's gradient sums over all chunks, in at least float32.
    dx_ND, dweight_VD = torch.empty_like(x_ND), at_least_float32(torch.zeros_like(weight_VD))
    total = dweight_VD.new_zeros(())
    rows = max(MIN_CHUNK_TOKENS, MAX_CHUNK_LOGITS // len(weight_VD))
    for start in iter_alike(range(0, len(x_ND), rows)):
        x_RD, target_R, dx_RD = (tensor[start : start + rows] for tensor in (x_ND, target_N, dx_ND))
        logits_RV = x_RD @ weight_VD.mT
        logits_RV, slope_RV = cap_logits(logits_RV, soft_cap)
        backend = find_backend("logit_gradients", logits_RV) or logit_gradients
        loss, dlogits_RV = backend(logits_RV, target_R)  # may overwrite the logits
        total += loss
        dlogits_RV = dlogits_RV if slope_RV is None else (dlogits_RV * slope_RV).to(x_RD.dtype)
        dx_RD.copy_(dlogits_RV @ weight_VD)
        _add_product(dweight_VD, dlogits_RV.mT, x_RD)
    return total, dx_ND, dweight_VD.to(weight_VD.dtype)


def cap_logits(logits_RV: Tensor, soft_cap: float) -> tuple[Tensor, Tensor | None]:
    """Return logits bounded by a cap, in at least float32, and the slope of each; as they are for a cap of 0."""
    if not soft_cap:
        return logits_RV, None
    tanh_RV = (at_least_float32(logits_RV) / soft_cap).tanh()
    return soft_cap * tanh_RV, 1 - tanh_RV.square()


def _add_product(sum_VD: Tensor, a_VR: Tensor, b_RD: Tensor) -> None:
    if sum_VD.dtype == a_VR.dtype:  # addmm_ needs one dtype
        sum_VD.addmm_(a_VR, b_RD)
    else:
        sum_VD += a_VR @ b_RD


def logit_gradients(logits_RV: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of a chunk's losses, in at least float32, and its gradient with respect to the logits."""
    log_RV, counted_R1 = at_least_float32(logits_RV).log_softmax(-1), (target_R != IGNORED)[:, None]
    target_R1 = target_R[:, None].clamp(min=0)  # an index in range for ignored targets too, masked below
    loss = -(log_RV.gather(-1, target_R1) * counted_R1).sum()
    gradient_RV = log_RV.exp_()
    gradient_RV.scatter_add_(-1, target_R1, gradient_RV.new_full((), -1.0).expand(target_R1.shape))
    return loss, gradient_RV.mul_(counted_R1).to(logits_RV.dtype)


_linear_cross_entropy = torch.library.custom_op("archlab::linear_cross_entropy", mutates_args=())(_loss_and_gradients)


# Shapes and dtypes for tracing under FakeTensor.
@_linear_cross_entropy.register_fake
def _(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, soft_cap: float) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x_ND.dtype, torch.float32)
    return x_ND.new_empty((), dtype=dtype), torch.empty_like(x_ND), torch.empty_like(weight_VD)


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])


def _scale_gradients(ctx: Any, dtotal: Tensor, _: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
    dx_ND, dweight_VD = ctx.saved_tensors
    # In at least float32: a factor such as 1 / 1000, rounded to bfloat16, would scale all gradients by a wrong one.
    return *((at_least_float32(x) * dtotal).to(x.dtype) for x in (dx_ND, dweight_VD)), None, None


# The operation is opaque to autograd as well: its backward multiplies the saved gradients by the upstream scalar.
_linear_cross_entropy.register_autograd(_scale_gradients, setup_context=_save_gradients)


def _flops(x_ND: Sizes, weight_VD: Sizes, *_: Any, **__: Any) -> int:
    return 6 * prod(x_ND) * weight_VD[0]


register_flop_formula(torch.ops.archlab.linear_cross_entropy)(_flops)
register_body("archlab.linear_cross_entropy", _loss_and_gradients)
register_backward_ahead("archlab.linear_cross_entropy", lambda x, weight, *_: 4 * x.numel() * len(weight))
