"""Scan a recurrence with a matrix state over chunks: S_m = kept_m S_{m-1} + added_m, where each kept_m is a matrix.

Letters in suffixes: B batch, H heads, M chunks, N groups of chunks, G chunks a group, K width of a key, V width of a
value, J = K + V.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# About the square root of 1,024, the chunks of 64K tokens: both levels then take as many sequential steps.
GROUP = 32


def scan_chunks(kept_BHMKK: Tensor, added_BHMKV: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk [B, H, M, K, V], and the last.

    Beyond GROUP chunks, all groups are scanned in parallel, and then the groups: GROUP + M / GROUP steps instead of M.
    """
    M, K, V = added_BHMKV.shape[2:]
    if M <= GROUP:
        return _sequential(kept_BHMKK, added_BHMKV, state_BHKV)
    # The affine maps S -> P S + Q compose to affine maps. A scan from [I | 0] in place of S carries [P | Q], so that
    # a group's composed map is known before the state that it is applied to. Padding chunks are the identity.
    identity = torch.eye(K, dtype=added_BHMKV.dtype, device=added_BHMKV.device)
    kept = torch.cat((kept_BHMKK, identity.expand(*added_BHMKV.shape[:2], -M % GROUP, K, K)), 2)
    added = F.pad(added_BHMKV, (K, 0, 0, 0, 0, -M % GROUP))
    kept_BHNGKK, added_BHNGKJ = kept.unflatten(2, (-1, GROUP)), added.unflatten(2, (-1, GROUP))
    inside, group = _sequential(kept_BHNGKK, added_BHNGKJ, F.pad(identity, (0, V)).expand_as(added_BHNGKJ[:, :, :, 0]))
    group_starts_BHNKV, last = scan_chunks(group[..., :K], group[..., K:], state_BHKV)
    starts = inside[..., :K] @ group_starts_BHNKV[:, :, :, None] + inside[..., K:]
    return starts.flatten(2, 3)[:, :, :M], last


def _sequential(kept_MKK: Tensor, added_MKJ: Tensor, state_KJ: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and the last, chunk by chunk."""
    states = [state_KJ]
    for kept, added in zip(kept_MKK.unbind(-3), added_MKJ.unbind(-3), strict=True):
        states.append(kept @ states[-1] + added)
    return torch.stack(states[:-1], -3), states[-1]
