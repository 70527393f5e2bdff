"""Losses of a text by the windows in which it was read, and by ranges of positions in them.

B windows at once, T positions, N windows, P ranges of positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from archlab.inference.suite import Estimate, estimate

_PER_OCTAVE = 2  # ranges of positions: their ends are 1, 2, 3, 4, 6, 8, 11, 16, ...


class Windows:
    """Sums of losses in windows of a length, which cover a text in order.

    With `keeps_losses` the loss of each target is kept, 4 bytes each, for longer windows to be compared with.
    """

    def __init__(self, length: int, *, keeps_losses: bool = False) -> None:
        self.length, self.num_targets, self.num_windows, self.keeps_losses = length, 0, 0, keeps_losses
        ends = np.round(2 ** (np.arange(_PER_OCTAVE * length.bit_length()) / _PER_OCTAVE)).astype(np.int64)
        self._edges = np.unique([0, *ends[ends < length], length])
        self._sums = list[NDArray[np.float64]]()
        self._counts = list[NDArray[np.float64]]()
        self._losses = list[NDArray[np.float32]]()

    def add(self, first: int, losses_BT: NDArray[np.float64], is_target_BT: NDArray[np.bool_]) -> None:
        """Add the losses of some windows from a position on; position 0 begins new windows."""
        if first == 0:
            shape = len(losses_BT), len(self._edges) - 1
            self._sums.append(np.zeros(shape))
            self._counts.append(np.zeros(shape))
            self.num_windows += len(losses_BT)
        place_T = np.searchsorted(self._edges, np.arange(first, first + losses_BT.shape[1]), "right") - 1
        for row, (losses_T, is_target_T) in enumerate(zip(losses_BT, is_target_BT, strict=True)):
            np.add.at(self._sums[-1][row], place_T, np.where(is_target_T, losses_T, 0.0))
            np.add.at(self._counts[-1][row], place_T, is_target_T)
        if self.keeps_losses:
            self._losses.append(losses_BT[is_target_BT].astype(np.float32))
        self.num_targets += int(is_target_BT.sum())

    def mean(self) -> Estimate:
        """Return the mean over all targets."""
        return estimate(*self._of_windows())

    def gain_over(self, other: Windows) -> Estimate:
        """Return by how much less the loss is than in other windows of the same targets, which are whole in a batch."""
        sums_N, counts_N = self._of_windows()
        before = np.concatenate([[0.0], np.cumsum(np.concatenate(other._losses), dtype=np.float64)])
        other_N = np.diff(before[np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int64)])
        return estimate(other_N - sums_N, counts_N)

    def by_position(self) -> list[tuple[float, Estimate]]:
        """Return the mean of each range of positions, at its last one, counted from 1."""
        sums_PN, counts_PN = np.concatenate(self._sums).T, np.concatenate(self._counts).T
        ranges = zip(self._edges[1:], sums_PN, counts_PN, strict=True)
        return [(float(end), estimate(s[c > 0], c[c > 0])) for end, s, c in ranges if c.any()]

    def _of_windows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sums_N, counts_N = (np.concatenate(x).sum(1) for x in (self._sums, self._counts))
        return sums_N[counts_N > 0], counts_N[counts_N > 0]
