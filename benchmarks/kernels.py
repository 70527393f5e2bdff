"""Each Triton kernel on this GPU against the time in which the same card copies as many bytes.

python benchmarks/kernels.py [diagonal_scan gated_linear logit_gradients timestep_norm ...]
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from _measure import require
from rich.console import Console
from rich.table import Table
from torch import Tensor

from archlab.ops.triton import OPERATIONS, kernels_of
from archlab.ops.triton.launch import Direction, Launch

DEVICE = torch.device("cuda")
COPIED = 2**28  # bytes, more than any card's caches


def on_gpu(launch: Launch) -> Launch:
    """Return the launch with random numbers in place of tensors without memory; one tensor in two places stays one."""
    made: dict[int, Tensor] = {}

    def make(value: Tensor | float) -> Tensor | float:
        if not isinstance(value, Tensor):
            return value
        return made.setdefault(id(value), _random(value))

    return replace(launch, arguments={name: make(value) for name, value in launch.arguments.items()})


def _random(like: Tensor) -> Tensor:
    """Return numbers between -0.1 and 0, which are decays too, or zeros of whole numbers."""
    x = torch.empty(like.shape, dtype=like.dtype, device=DEVICE)
    return x.uniform_(-0.1, 0) if like.is_floating_point() else x.zero_()


def seconds(direction: Direction) -> float:
    """Return the median time of a direction's launches, each time with empty caches."""
    from triton.testing import do_bench

    launches = [on_gpu(launch) for launch in direction.launches]
    return float(do_bench(lambda: [launch.run() for launch in launches], return_mode="median")) / 1e3


def copy_bandwidth() -> float:
    """Return the bytes read and written per second by a copy."""
    from triton.testing import do_bench

    x = torch.rand(COPIED // 4, device=DEVICE)
    y = torch.empty_like(x)
    return 2 * COPIED / (float(do_bench(lambda: y.copy_(x), return_mode="median")) / 1e3)


def main() -> None:
    """Measure the operations that the command line names, or all."""
    require("triton")
    if not torch.cuda.is_available():
        print("this benchmark needs a GPU; archlab kernels compiles the kernels without one", file=sys.stderr)
        sys.exit(2)
    bandwidth = copy_bandwidth()
    title = f"{torch.cuda.get_device_name()}, copying at {bandwidth / 1e12:.2f} TB/s, torch {torch.__version__}"
    table = Table("kernel", "us", "a copy's us", "ratio", title=title, box=None, title_justify="left")
    for name in sys.argv[1:] or OPERATIONS:
        for direction in kernels_of(name).directions():
            took, limit = seconds(direction), direction.min_bytes / bandwidth
            table.add_row(direction.name, f"{1e6 * took:,.0f}", f"{1e6 * limit:,.0f}", f"{took / limit:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
