"""Attention to latents, from which each head makes its keys and values.

Letters in suffixes: B batch, T time, H heads, Q queries, S keys, N width of a key's content, P width of a key's
position, R width of a latent, V width of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.components._init import Init, linear
from archlab.components.attention._shape import AttentionShape
from archlab.components.attention._window import WindowedAttention
from archlab.components.attention._window_state import Window
from archlab.components.position._base import Position
from archlab.ops.causal_attention import causal_attention


class TailPosition(Position):
    """A position of the last features of queries and keys alone."""

    def __init__(self, inner: Position, width: int) -> None:
        super().__init__()
        self.inner, self.width = inner, width

    def rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        """Return queries or keys whose last features are rotated."""
        content, tail = x_BTHK[..., : -self.width], x_BTHK[..., -self.width :]
        return torch.cat((content, self.inner.rotate(tail, position_BT)), dim=-1)

    def bias(self, query_BQ: Tensor, key_BS: Tensor) -> Tensor | None:
        """Return the bias of the scores."""
        return self.inner.bias(query_BQ, key_BS)


class LatentAttention(WindowedAttention):
    """Softmax attention whose keys and values are products of latents, which the state holds in their place.

    q: [B, T, H, N + P], k: [B, T, 1, P], v: the latents [B, T, 1, R] -> [B, T, H, V].  State: that of
    WindowedAttention. A head's key is the content that it makes of the latent, [N], and the position k, which all
    share.
    """

    def __init__(
        self,
        shape: AttentionShape,
        position: Position,
        *,
        content_dim: int,
        value_head_dim: int,
        dropout: float,
        window: Window,
        window_size: int,
        init: Init,
    ) -> None:
        super().__init__(shape, TailPosition(position, shape.key_dim), window=window, window_size=window_size)
        self.widths, self.dropout = (content_dim, value_head_dim), dropout
        self.up = linear(shape.value_dim, shape.num_heads * sum(self.widths), bias=False, init=init)

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head."""
        return (self.widths[0] + self.shape.key_dim) * self.shape.scale

    def attend(self, q_BHQK: Tensor, k_B1SP: Tensor, v_B1SR: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Attend to keys and values, or to the latents themselves where there is one query: they are read once."""
        if q_BHQK.shape[2] == 1:
            return self._attend_to_latents(q_BHQK, k_B1SP, v_B1SR, mask, bias)
        return self._softmax(q_BHQK, *self._expand(k_B1SP, v_B1SR), mask, bias)

    def attend_causal(self, q_BHQK: Tensor, k_B1SP: Tensor, v_B1SR: Tensor, bias: Tensor | None) -> Tensor:
        """Attend under the causal mask, without materializing it where there is no bias."""
        if bias is not None or (self.training and self.dropout > 0):
            return super().attend_causal(q_BHQK, k_B1SP, v_B1SR, bias)
        return causal_attention(q_BHQK, *self._expand(k_B1SP, v_B1SR), self.shape.scale)

    def _expand(self, k_B1SP: Tensor, v_B1SR: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys [B, H, S, N + P] and values [B, H, S, V] of every head."""
        both_BHSE = self.up(v_B1SR[:, 0]).unflatten(-1, (-1, sum(self.widths))).transpose(1, 2)
        content_BHSN, value_BHSV = both_BHSE.split(self.widths, -1)
        place_BHSP = k_B1SP.expand(-1, content_BHSN.shape[1], -1, -1)
        return torch.cat((content_BHSN, place_BHSP), dim=-1), value_BHSV

    def _attend_to_latents(
        self, q_BH1K: Tensor, k_B1SP: Tensor, v_B1SR: Tensor, mask: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Compute (q Wᵀ) latentᵀ for the scores q (W latent)ᵀ, and the value of the mean of the latents."""
        content_HNR, value_HVR = self.up.weight.unflatten(0, (-1, sum(self.widths))).split(self.widths, 1)
        content_BH1N, place_BH1P = q_BH1K.split((self.widths[0], self.shape.key_dim), -1)
        q_BH1R = torch.cat((content_BH1N @ content_HNR.to(q_BH1K.dtype), place_BH1P), dim=-1)
        # The heads are queries of one head, all of which see the same keys.
        keys, bias = torch.cat((v_B1SR, k_B1SP), dim=-1), None if bias is None else bias.transpose(1, 2)
        mean_BH1R = self._softmax(q_BH1R.transpose(1, 2), keys, v_B1SR, mask, bias).transpose(1, 2)
        return mean_BH1R @ value_HVR.mT.to(mean_BH1R.dtype)

    def _softmax(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_BHQK.dtype)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, masked, dropout, scale=self.shape.scale)

    def _repeat_kv(self, x_RSGK: Tensor) -> Tensor:
        """Return [R, G, S, K]: all heads share one latent."""
        return x_RSGK.transpose(1, 2)
