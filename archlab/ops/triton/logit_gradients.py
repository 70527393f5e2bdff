"""The Triton backend of the cross-entropy's gradients: logits are overwritten by their gradients.

It is called inside a custom operation (linear_cross_entropy), so it needs no shapes for tracing and no autograd.

Letters in suffixes: R tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from archlab.ops.triton.launch import Direction, Launch

from ._logit_gradients import gradients

MAX_WIDTH = 4096  # logits of a tile: 16 per thread of 8 warps, in registers


def logit_gradients(logits_RV: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of a chunk's losses, in at least float32, and its gradient, which overwrites the logits."""
    logits_RV = logits_RV.contiguous()
    dtype = torch.promote_types(logits_RV.dtype, torch.float32)
    losses_R = logits_RV.new_empty(len(logits_RV), dtype=dtype)
    _launch(logits_RV, target_R, losses_R).run()
    return losses_R.sum(), logits_RV


def _launch(logits: Tensor, target: Tensor, losses: Tensor) -> Launch:
    R, V = logits.shape
    arguments: dict[str, Tensor | int | float] = {"logits": logits, "target": target, "losses": losses, "V": V}
    constants = {"WIDTH": min(MAX_WIDTH, triton.next_power_of_2(V))}
    return Launch(gradients, (R,), arguments, constants, num_warps=8, traffic={"logits": 2})


def directions() -> tuple[Direction, ...]:
    """Return the one launch, for loss and gradient, of 512 tokens and a vocabulary of 32,000."""
    logits = torch.empty(512, 32_000, device="meta")
    target, losses = torch.empty(512, dtype=torch.int64, device="meta"), torch.empty(512, device="meta")
    launch = _launch(logits, target, losses)
    return (Direction("token loss, both ways", (launch,), launch.bytes_moved),)
