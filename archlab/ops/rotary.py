"""Cosines and sines of positions, at a ladder of frequencies."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.ops.dispatch import find_backend, register_backend


def rotary_angles(position_BT: Tensor, num_pairs: int, base: float) -> Tensor:
    """Return the angles position * base^(-i / num_pairs) [B, T, num_pairs], in float64 so that late ones stay exact."""
    exponent = torch.arange(num_pairs, dtype=torch.float64, device=position_BT.device) / num_pairs
    return position_BT.double().unsqueeze(-1) * base**-exponent


def rotary_cos_sin(position_BT: Tensor, num_pairs: int, base: float, dtype: torch.dtype) -> Tensor:
    """Return the cosines and sines of `angles` [2, B, T, num_pairs], for what is turned by them."""
    many = torch.compiler.is_compiling() and position_BT.shape[1] > 1
    body = (find_backend("rotary_cos_sin", position_BT) if many else None) or rotary_cos_sin_reference
    table: Tensor = body(position_BT, num_pairs, base, dtype)
    return table


def rotary_cos_sin_reference(position_BT: Tensor, num_pairs: int, base: float, dtype: torch.dtype) -> Tensor:
    """Do so in plain PyTorch, which a compiler may compute again for every number that is turned."""
    angle = rotary_angles(position_BT, num_pairs, base)
    return torch.stack((angle.cos(), angle.sin())).to(dtype)


# A compiler keeps this whole: taken into other loops, it would be computed again and again.
@torch.library.custom_op("archlab::rotary_cos_sin", mutates_args=())
def _rotary_cos_sin(position_BT: Tensor, num_pairs: int, base: float, dtype: torch.dtype) -> Tensor:
    return rotary_cos_sin_reference(position_BT, num_pairs, base, dtype)


@_rotary_cos_sin.register_fake
def _(position_BT: Tensor, num_pairs: int, base: float, dtype: torch.dtype) -> Tensor:
    return position_BT.new_empty(2, *position_BT.shape, num_pairs, dtype=dtype)


def register_opaque_ops() -> None:
    """Take them on every device that models are compiled for."""
    for device_type in ("cpu", "cuda"):
        register_backend("rotary_cos_sin", device_type, _rotary_cos_sin)
