"""Cosines and sines of positions at geometrically spaced frequencies."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.ops.dispatch import find_backend, register_backend


def rotary_angles(position_BT: Tensor, num_pairs: int, base: float) -> Tensor:
    """Return the angles position * base^(-i / num_pairs) [B, T, num_pairs], in float64.

    In float32 an angle of 100,000 radians would be a multiple of 0.008, too coarse for late positions.
    """
    return position_BT.double().unsqueeze(-1) * rotary_frequencies(num_pairs, base, position_BT.device)


def rotary_frequencies(num_pairs: int, base: float, device: torch.device) -> Tensor:
    """Return the frequencies base^(-i / num_pairs) [num_pairs], in float64."""
    return base ** -(torch.arange(num_pairs, dtype=torch.float64, device=device) / num_pairs)


def rotary_cos_sin(position_BT: Tensor, frequency_P: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the cosines and sines of position * frequency [2, B, T, P], computed in float64, in `dtype`."""
    # One step's table costs little to recompute, and an opaque call would split the fused loops of decoding.
    opaque = torch.compiler.is_compiling() and position_BT.shape[1] > 1
    backend = (find_backend("rotary_cos_sin", position_BT) if opaque else None) or rotary_cos_sin_reference
    table: Tensor = backend(position_BT, frequency_P, dtype)
    return table


def rotary_cos_sin_reference(position_BT: Tensor, frequency_P: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute the same in PyTorch, which a compiler may recompute for every element that is rotated."""
    angle = position_BT.double().unsqueeze(-1) * frequency_P
    return torch.stack((angle.cos(), angle.sin())).to(dtype)


# An operation opaque to torch.compile: Inductor would fuse the table into each loop that rotates, and so compute
# float64 cosines again for every head and channel.
@torch.library.custom_op("archlab::rotary_cos_sin", mutates_args=())
def _rotary_cos_sin(position_BT: Tensor, frequency_P: Tensor, dtype: torch.dtype) -> Tensor:
    return rotary_cos_sin_reference(position_BT, frequency_P, dtype)


# The shape for tracing under FakeTensor. There is no autograd formula: positions are integers.
@_rotary_cos_sin.register_fake
def _(position_BT: Tensor, frequency_P: Tensor, dtype: torch.dtype) -> Tensor:
    return position_BT.new_empty(2, *position_BT.shape, frequency_P.shape[0], dtype=dtype)


def register_opaque_ops() -> None:
    """Register the opaque table of rotations as the backend on every device that models are compiled for."""
    for device_type in ("cpu", "cuda"):
        register_backend("rotary_cos_sin", device_type, _rotary_cos_sin)
