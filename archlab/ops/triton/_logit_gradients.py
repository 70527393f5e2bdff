"""The kernel of the cross-entropy's gradients: a program per token, which reads its logits twice.

A program passes over the V logits of its token in tiles of WIDTH. The first pass reads memory, the second mostly the
cache, and overwrites them by their gradients, so that no second [R, V] tensor exists.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gradients(logits, target, losses, V, WIDTH: tl.constexpr):
    """Overwrite logits [R, V] by softmax(logits) - onehot(target), and write -log softmax[target] to losses [R].

    A negative target is ignored: its gradients and loss are zeros.
    """
    token = tl.program_id(0).to(tl.int64)  # token * V may exceed 32 bits
    logits += token * V
    label, columns = tl.load(target + token), tl.arange(0, WIDTH)
    dtype = losses.dtype.element_ty
    # An online softmax in each of WIDTH lanes: the largest logit so far, and the sum of exponentials relative to it.
    # -1e38 in place of -inf, as the difference of two infinities would be NaN.
    highest, total = tl.full((WIDTH,), -1e38, dtype), tl.zeros((WIDTH,), dtype)
    for first in range(0, V, WIDTH):
        x = tl.load(logits + first + columns, mask=first + columns < V, other=float("-inf")).to(dtype)
        new_highest = tl.maximum(highest, x)
        total = total * tl.exp(highest - new_highest) + tl.exp(x - new_highest)
        highest = new_highest
    peak = tl.max(highest, 0)
    log_total = peak + tl.log(tl.sum(total * tl.exp(highest - peak), 0))
    counted = label >= 0
    target_logit = tl.load(logits + tl.maximum(label, 0)).to(dtype)
    tl.store(losses + token, tl.where(counted, log_total - target_logit, 0.0))
    # All threads have read the target's logit before one of them overwrites it.
    tl.debug_barrier()
    for first in range(0, V, WIDTH):
        x = tl.load(logits + first + columns, mask=first + columns < V, other=float("-inf")).to(dtype)
        gradient = tl.exp(x - log_total) - tl.where(first + columns == label, 1.0, 0.0)
        gradient = tl.where(counted, gradient, 0.0)
        tl.store(logits + first + columns, gradient.to(logits.dtype.element_ty), mask=first + columns < V)
