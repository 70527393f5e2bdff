"""The Triton body of the loss of a part of the tokens: scores become gradients where they lie.

Letters in suffixes: R tokens of a part, V words.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from archlab.ops.triton.launch import Direction, Launch

from ._logit_gradients import gradients

WIDEST = 4096  # scores that a program holds at a time


def logit_gradients(scores_RV: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of some tokens, in at least float32, and its gradient, put in the scores' place."""
    scores_RV = scores_RV.contiguous()
    exact = torch.promote_types(scores_RV.dtype, torch.float32)
    losses_R = scores_RV.new_empty(len(scores_RV), dtype=exact)
    _launch(scores_RV, target_R, losses_R).run()
    return losses_R.sum(), scores_RV


def _launch(scores: Tensor, target: Tensor, losses: Tensor) -> Launch:
    R, V = scores.shape
    arguments: dict[str, Tensor | int | float] = {"scores": scores, "target": target, "losses": losses, "V": V}
    constants = {"WIDTH": min(WIDEST, triton.next_power_of_2(V))}
    return Launch(gradients, (R,), arguments, constants, num_warps=8, traffic={"scores": 2})


def passes() -> tuple[Direction, ...]:
    """Return the one pass, which gives loss and gradient, on 512 tokens and 32,000 words."""
    scores = torch.empty(512, 32_000, device="meta")
    target, losses = torch.empty(512, dtype=torch.int64, device="meta"), torch.empty(512, device="meta")
    launch = _launch(scores, target, losses)
    return (Direction("token loss, both ways", (launch,), launch.bytes_moved),)
