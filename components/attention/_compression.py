"""Compressed memories: pairs of keys and values, their windows, and the convolution that compresses them.

Letters in suffixes: B batch, T time, N groups or windows, C members of a group or queries, G key heads, H heads,
I and J width of a head, K width of a key, V width of a value, S keys, E groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.components._per_sample import gather_windows
from archlab.ops.dtypes import at_least_float32


class KVCache(NamedTuple):
    """Keys [B, S, G, K] and values [B, S, G, V] of the same tokens."""

    keys: Tensor
    values: Tensor

    def append(self, new: KVCache) -> KVCache:
        """Return the cache followed by newer entries, in the precision of those."""
        return KVCache(*(torch.cat((x.to(y.dtype), y), dim=1) for x, y in zip(self, new, strict=True)))

    def detach(self) -> KVCache:
        """Return the entries without their gradients."""
        return KVCache(*(x.detach() for x in self))

    def gather(self, start_BN: Tensor, size: int) -> KVCache:
        """Return windows [B N, size, ...] from each sample's starts on; past either end, that entry is repeated."""
        return KVCache(*(gather_windows(x, start_BN, size) for x in self))

    def unfold(self, start: int, size: int, step: int, count: int) -> KVCache:
        """Return `count` windows [B count, size, ...] from `start` <= 0 on, `step` apart; past either end, zeros."""
        padding = max(0, start + (count - 1) * step + size - self.keys.shape[1])
        padded = (F.pad(x, (0, 0, 0, 0, -start, padding)) for x in self)
        return KVCache(*(x.unfold(1, size, step)[:, :count].movedim(-1, 2).flatten(0, 1) for x in padded))

    def repeat_heads(self, num_heads: int) -> KVCache:
        """Return [B, H, S, K] and [B, H, S, V], each key head repeated for the query heads that share it."""
        return KVCache(*(x.repeat_interleave(num_heads // x.shape[2], dim=2).transpose(1, 2) for x in self))


class Compression(nn.Module):
    """Strided convolutions over time, y = sum_c W_c x_c + b, with weights per key head, of keys and of values."""

    def __init__(self, num_kv_heads: int, key_dim: int, value_dim: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.key_weight = nn.Parameter(torch.empty(num_kv_heads, rate, key_dim, key_dim))
        self.value_weight = nn.Parameter(torch.empty(num_kv_heads, rate, value_dim, value_dim))
        self.key_bias = nn.Parameter(torch.empty(num_kv_heads, key_dim))
        self.value_bias = nn.Parameter(torch.empty(num_kv_heads, value_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize to the mean of a group: W_c = I / rate, b = 0."""
        for weight in (self.key_weight, self.value_weight):
            nn.init.zeros_(weight).detach().diagonal(dim1=-2, dim2=-1).fill_(1 / self.rate)
        nn.init.zeros_(self.key_bias)
        nn.init.zeros_(self.value_bias)

    def forward(self, members: KVCache) -> KVCache:
        """Return [B, T // rate, G, J] of [B, T, G, I], without the incomplete group at the end."""
        grouped = (x[:, : x.shape[1] // self.rate * self.rate].unflatten(1, (-1, self.rate)) for x in members)
        weights, biases = (self.key_weight, self.value_weight), (self.key_bias, self.value_bias)
        outputs = (torch.einsum("bncgi,gcij->bngj", x, w) + b for x, w, b in zip(grouped, weights, biases, strict=True))
        return KVCache(*outputs)


def attend(q_BHCK: Tensor, entries: KVCache, mask: Tensor, scale: float) -> Tensor:
    """Return [B, H, C, V], softmax attention with a boolean mask or a bias added to the scaled scores."""
    keys_BHSK, values_BHSV = entries
    return F.scaled_dot_product_attention(q_BHCK, keys_BHSK, values_BHSV, attn_mask=mask, scale=scale)


def reconstruction_loss(q_BHCK: Tensor, old: KVCache, compressed: KVCache, valid_BE: Tensor, scale: float) -> Tensor:
    """Return [B, C], the mean square error of attention to compressed groups [B, E] in place of their members.

    It is the attention-reconstruction loss of the Compressive Transformer, algorithm 2: gradients reach the compression
    alone, so queries and members are detached. Samples without a valid group have a loss of 0.
    """
    any_B1 = valid_BE.any(1, keepdim=True)
    # A row of the softmax with all keys masked is NaN, and NaN * 0 is NaN: such a sample attends to all and then
    # counts 0 times.
    seen_BE = valid_BE | ~any_B1
    rate = old.keys.shape[2] // seen_BE.shape[1]
    seen_BS = seen_BE.repeat_interleave(rate, dim=1)
    q, members = q_BHCK.detach(), old.detach()
    target = attend(q, members, seen_BS[:, None, None], scale)
    reconstruction = attend(q, compressed, seen_BE[:, None, None], scale)
    return at_least_float32(reconstruction - target).square().mean((1, 3)) * any_B1
