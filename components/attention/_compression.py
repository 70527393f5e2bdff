"""Memories made fewer, and windows of them.

Letters in suffixes: B batch, T time, N groups or windows, C members of a group or queries, G key heads, H heads,
I and J width of a head, K width of a key, V width of a value, S keys, E groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.components._per_sample import windows
from archlab.ops.dtypes import at_least_float32


class KVCache(NamedTuple):
    """Keys [B, S, G, K] and values [B, S, G, V], which are cut and joined alike."""

    keys: Tensor
    values: Tensor

    def append(self, earlier: KVCache) -> KVCache:
        """Return the earlier ones, in these ones' precision, and these."""
        return KVCache(*(torch.cat((old.to(new.dtype), new), dim=1) for old, new in zip(earlier, self, strict=True)))

    def last(self, count: int) -> KVCache:
        """Return the newest in memory of their own."""
        return KVCache(*(x[:, x.shape[1] - count :].clone() for x in self))

    def take(self, begin_BN: Tensor, size: int) -> KVCache:
        """Return windows [B N, size, ...] from each begin on; past the end, the last again."""
        return KVCache(*(windows(x, begin_BN, size) for x in self))

    def slide(self, begin: int, size: int, step: int, count: int) -> KVCache:
        """Return windows [B count, size, ...] from the begin on, one every `step`; past the end, zeros."""
        spare = max(0, begin + (count - 1) * step + size - self.keys.shape[1])
        padded = (F.pad(x, (0, 0, 0, 0, 0, spare))[:, begin:] for x in self)
        return KVCache(*(x.unfold(1, size, step)[:, :count].movedim(-1, 2).flatten(0, 1) for x in padded))

    def heads(self, num_heads: int) -> KVCache:
        """Return [B, H, S, K] and [B, H, S, V], each key head repeated for the queries that share it."""
        return KVCache(*(x.repeat_interleave(num_heads // x.shape[2], dim=2).transpose(1, 2) for x in self))


class Compression(nn.Module):
    """Strided convolutions over time, y = sum_c W_c x_c + b, of keys and of values, each key head's apart."""

    def __init__(self, num_kv_heads: int, key_dim: int, value_dim: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.key_weight = nn.Parameter(torch.empty(num_kv_heads, rate, key_dim, key_dim))
        self.value_weight = nn.Parameter(torch.empty(num_kv_heads, rate, value_dim, value_dim))
        self.key_bias = nn.Parameter(torch.empty(num_kv_heads, key_dim))
        self.value_bias = nn.Parameter(torch.empty(num_kv_heads, value_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin as the mean of a group."""
        for weight in (self.key_weight, self.value_weight):
            nn.init.zeros_(weight).detach().diagonal(dim1=-2, dim2=-1).fill_(1 / self.rate)
        nn.init.zeros_(self.key_bias)
        nn.init.zeros_(self.value_bias)

    def forward(self, members: KVCache) -> KVCache:
        """Return [B, T // rate, G, J] of [B, T, G, I]; what is less than a group at the end is left out."""
        grouped = (x[:, : x.shape[1] // self.rate * self.rate].unflatten(1, (-1, self.rate)) for x in members)
        weights, biases = (self.key_weight, self.value_weight), (self.key_bias, self.value_bias)
        made = (torch.einsum("bncgi,gcij->bngj", x, w) + b for x, w, b in zip(grouped, weights, biases, strict=True))
        return KVCache(*made)


def attend(q_BHCK: Tensor, entries: KVCache, mask: Tensor, scale: float) -> Tensor:
    """Return [B, H, C, V], the values by the softmax of scaled scores, which `mask` is added to or picks from."""
    keys_BHSK, values_BHSV = entries
    return F.scaled_dot_product_attention(q_BHCK, keys_BHSK, values_BHSV, attn_mask=mask, scale=scale)


def reconstruction_loss(q_BHCK: Tensor, old: KVCache, made: KVCache, some_BE: Tensor, scale: float) -> Tensor:
    """Return [B, C], each query's mean square of what it misses where groups [B, E] stand in for their members.

    No gradient reaches what is asked and remembered, only what made the groups. Where there are none, 0.
    """
    any_B1 = some_BE.any(1, keepdim=True)
    seen_BE = some_BE | ~any_B1
    rate = old.keys.shape[2] // seen_BE.shape[1]
    seen_BS = seen_BE.repeat_interleave(rate, dim=1)
    q, expected = q_BHCK.detach(), KVCache(*(x.detach() for x in old))
    truth, found = attend(q, expected, seen_BS[:, None, None], scale), attend(q, made, seen_BE[:, None, None], scale)
    return at_least_float32(found - truth).square().mean((1, 3)) * any_B1
