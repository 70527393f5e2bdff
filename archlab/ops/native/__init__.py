"""Bodies in C++ for operations that neither PyTorch nor its compiler makes fast on a CPU."""

from __future__ import annotations

from functools import cache

from archlab.ops.bodies import install

from . import diagonal_scan


@cache
def install_native() -> None:
    """Build what is not built yet, and take it on CPUs; without a compiler the plain forms stay."""
    if diagonal_scan.ready():
        install("diagonal_scan", "cpu", diagonal_scan.diagonal_scan)
