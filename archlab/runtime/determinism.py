"""Sums in the same order at every run, so that a resumed run is the run that was never stopped, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Temporarily have torch use deterministic algorithms, where it has them.

    Compiled, the gradient of a look-up adds rows as threads come to them, on a GPU and on a CPU of several threads, and
    FlashAttention's backward pass does likewise: a difference in the last bit, which grows with every step.
    """
    mode, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    settings: Any = torch.utils.deterministic  # whose attributes are not declared
    fill, settings.fill_uninitialized_memory = (
        settings.fill_uninitialized_memory,
        False,
    )  # takes time for each new tensor
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            # Some operations have no such algorithm: cumulative sums on a GPU, for one. Nothing can be done about it.
            warnings.filterwarnings("ignore", message=r".*(deterministic implementation|CuBLAS)")
            yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)
        settings.fill_uninitialized_memory = fill
