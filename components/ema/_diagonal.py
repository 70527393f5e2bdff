"""Diagonal recurrences: the state that a piece of a sequence leaves, how it decays the earlier, and complex states."""

from __future__ import annotations

import numpy as np
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
        return {"h": h, "factor": decay_over(x_BTD.shape[1], decay, h).expand_as(h).contiguous()}

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


def decay_over(num_steps: int, decay: Decay, like: Tensor) -> Tensor:
    """Return the factor [D, N, P] of a state after some steps, in the dtype of a tensor."""
    wide = Decay(*(None if part is None else part.double() for part in decay))  # type: ignore[arg-type]
    return wide.powers(torch.full((1,), num_steps, dtype=torch.float64, device=like.device))[:, 0].to(like.dtype)


def zero_order_hold(log_step: Tensor, log_rate_DN: Tensor, frequency_DN: Tensor) -> tuple[Decay, Tensor]:
    """Return exp(dt A) and (exp(dt A) - 1) / A [D, N, 2] of A = -exp(log_rate) + i frequency and dt = exp(log_step).

    With dt A = r + i a, exp(dt A) - 1 loses its digits for a small dt; its real part e^r cos a - 1 is computed as
    expm1(r) cos a - 2 sin²(a / 2), as cos a - 1 = -2 sin²(a / 2).
    """
    dt, rate = at_least_float32(log_step).exp(), at_least_float32(log_rate_DN).exp()
    frequency = at_least_float32(frequency_DN)
    decay = Decay(-dt * rate, dt * frequency)
    growth, angle = torch.expm1(decay.log_radius_DN), dt * frequency
    shifted = torch.stack((growth * angle.cos() - 2 * (angle / 2).sin() ** 2, (growth + 1) * angle.sin()), dim=-1)
    inverse = torch.stack((-rate, -frequency), dim=-1) / (rate**2 + frequency**2)[..., None]
    return decay, complex_mul(shifted, inverse)


def legendre_frequencies(num_dims: int) -> np.ndarray:
    """Return the positive imaginary parts of the eigenvalues of HiPPO-LegS without its part of rank 1, ascending."""
    # That matrix of size 2 num_dims is -1/2 plus a skew-symmetric one, whose eigenvalues are imaginary.
    root = np.sqrt(2 * np.arange(2 * num_dims) + 1.0)
    skew = np.triu(np.outer(root, root) / 2, 1)
    return np.linalg.eigvalsh(1j * (skew - skew.T))[num_dims:]
