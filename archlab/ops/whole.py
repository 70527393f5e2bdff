"""Operations that a compiler keeps whole, where taking them into other loops makes it compute them again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from .bodies import install
from .turns import turns_plain


@torch.library.custom_op("archlab::turns", mutates_args=())
def _turns(position_BT: Tensor, num_pairs: int, base: float, dtype: torch.dtype) -> Tensor:
    return turns_plain(position_BT, num_pairs, base, dtype)


@_turns.register_fake
def _(position_BT: Tensor, num_pairs: int, base: float, dtype: torch.dtype) -> Tensor:
    return position_BT.new_empty(2, *position_BT.shape, num_pairs, dtype=dtype)


def install_whole() -> None:
    """Take them on every device that models are compiled for."""
    for device_type in ("cpu", "cuda"):
        install("turns", device_type, _turns)
