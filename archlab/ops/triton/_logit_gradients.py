"""The kernel of the loss of tokens: a program reads one token's scores twice, then from the cache."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gradients(scores, target, losses, V, WIDTH: tl.constexpr):
    """Put softmax(scores) less the target's one in the place of scores [R, V], and -log softmax[target] in losses [R].

    A target below 0 is none: zeros.
    """
    token = tl.program_id(0).to(tl.int64)
    scores += token * V
    wanted, words = tl.load(target + token), tl.arange(0, WIDTH)
    number = losses.dtype.element_ty
    high, total = tl.full((WIDTH,), -1e38, number), tl.zeros((WIDTH,), number)
    for first in range(0, V, WIDTH):
        x = tl.load(scores + first + words, mask=first + words < V, other=float("-inf")).to(number)
        higher = tl.maximum(high, x)
        total = total * tl.exp(high - higher) + tl.exp(x - higher)
        high = higher
    most = tl.max(high, 0)
    log_total = most + tl.log(tl.sum(total * tl.exp(high - most), 0))
    asked = wanted >= 0
    said = tl.load(scores + tl.maximum(wanted, 0)).to(number)
    tl.store(losses + token, tl.where(asked, log_total - said, 0.0))
    tl.debug_barrier()
    for first in range(0, V, WIDTH):
        x = tl.load(scores + first + words, mask=first + words < V, other=float("-inf")).to(number)
        gradient = tl.exp(x - log_total) - tl.where(first + words == wanted, 1.0, 0.0)
        gradient = tl.where(asked, gradient, 0.0)
        tl.store(scores + first + words, gradient.to(scores.dtype.element_ty), mask=first + words < V)
