"""What recurrences with a matrix as state do between blocks: S = kept S + added, for matrices kept.

Letters in suffixes: B batch, H heads, M blocks, N groups of blocks, G blocks a group, K width of a key, V width of a
value, J = K + V.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 32


def scan_chunks(kept_BHMKK: Tensor, added_BHMKV: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each block [B, H, M, K, V], and the last.

    Beyond GROUP blocks this is done to groups of blocks at once, and then between the groups.
    """
    M, K, V = added_BHMKV.shape[2:]
    if M <= GROUP:
        return _sequential(kept_BHMKK, added_BHMKV, state_BHKV)
    same = torch.eye(K, dtype=added_BHMKV.dtype, device=added_BHMKV.device)
    kept = torch.cat((kept_BHMKK, same.expand(*added_BHMKV.shape[:2], -M % GROUP, K, K)), 2)
    added = F.pad(added_BHMKV, (K, 0, 0, 0, 0, -M % GROUP))
    kept_BHNGKK, added_BHNGKJ = kept.unflatten(2, (-1, GROUP)), added.unflatten(2, (-1, GROUP))
    inside, whole = _sequential(kept_BHNGKK, added_BHNGKJ, F.pad(same, (0, V)).expand_as(added_BHNGKJ[:, :, :, 0]))
    firsts_BHNKV, last = scan_chunks(whole[..., :K], whole[..., K:], state_BHKV)
    starts = inside[..., :K] @ firsts_BHNKV[:, :, :, None] + inside[..., K:]
    return starts.flatten(2, 3)[:, :, :M], last


def _sequential(kept_MKK: Tensor, added_MKJ: Tensor, state_KJ: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each block, and the last, one after the other."""
    states = [state_KJ]
    for kept, added in zip(kept_MKK.unbind(-3), added_MKJ.unbind(-3), strict=True):
        states.append(kept @ states[-1] + added)
    return torch.stack(states[:-1], -3), states[-1]
