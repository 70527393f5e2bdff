"""Diagonal recurrences: the state that a piece of a sequence leaves, how it decays the earlier, and complex states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Recurrent, State
from archlab.ops.diagonal_scan import Decay, complex_mul, diagonal_scan
from archlab.ops.dtypes import at_least_float32


class DiagonalRecurrence(Recurrent):
    """A layer whose state is h [B, D, N, P] of a diagonal scan, P being 1 or 2 (real and imaginary part)."""

    def _coefficients(self) -> tuple[Decay, Tensor]:
        """Return the decay, and the weight of the output [D, N, P]."""
        raise NotImplementedError

    def summarize(self, x_BTD: Tensor) -> State:
        """Return the state after a piece that starts from 0, and the factor of an earlier state."""
        decay, weight_DNP = self._coefficients()
        _, h = diagonal_scan(x_BTD, decay, weight_DNP, None)
        steps = torch.full((1,), x_BTD.shape[1], dtype=torch.float64, device=h.device)
        wide = Decay(*(None if part is None else part.double() for part in decay))  # type: ignore[arg-type]
        factor_DNP = wide.powers(steps)[:, 0].to(h.dtype)
        return {"h": h, "factor": factor_DNP.expand_as(h).contiguous()}

    def merge(self, earlier: State, later: State) -> State:
        """Return the summary of two pieces."""
        carried = complex_mul(later["factor"], earlier["h"])
        return {"h": carried + later["h"], "factor": complex_mul(earlier["factor"], later["factor"])}

    def enter(self, summary: State) -> State:
        """Return the state after the pieces of a summary."""
        return {"h": summary["h"]}


class DiagonalStates(DiagonalRecurrence):
    """Complex states of each channel [B, D, N, 2], whose output a factor of `read` [D, N, 2] gives, and a skip [D]."""

    read: nn.Parameter
    skip: nn.Parameter

    def init_state(self, batch_size: int) -> State:
        """Return h = 0."""
        return {"h": at_least_float32(self.read).new_zeros(batch_size, *self.read.shape)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the states of every channel."""
        decay, weight_DN2 = self._coefficients()
        y_BTD, h = diagonal_scan(x_BTD, decay, weight_DN2, state["h"] if state else None)
        return (y_BTD + at_least_float32(x_BTD) * at_least_float32(self.skip)).to(x_BTD.dtype), {"h": h}
