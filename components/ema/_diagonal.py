"""A diagonal recurrence cut over ranks: what a piece of a sequence adds to the state, and how it decays the earlier."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import State
from archlab.ops.diagonal_scan import Decay, complex_mul, diagonal_scan


def summarize_scan(x_BTD: Tensor, decay: Decay, weight_DNP: Tensor) -> State:
    """Return the state h [B, D, N, P] after a piece that starts from 0, and the factor of an earlier state."""
    _, h = diagonal_scan(x_BTD, decay, weight_DNP, None)
    steps = torch.full((1,), x_BTD.shape[1], dtype=torch.float64, device=h.device)
    wide = Decay(*(None if part is None else part.double() for part in decay))  # type: ignore[arg-type]
    factor_DNP = wide.powers(steps)[:, 0].to(h.dtype)
    return {"h": h, "factor": factor_DNP.expand_as(h).contiguous()}


def merge_scans(earlier: State, later: State) -> State:
    """Return the summary of two pieces."""
    carried = complex_mul(later["factor"], earlier["h"])
    return {"h": carried + later["h"], "factor": complex_mul(earlier["factor"], later["factor"])}
