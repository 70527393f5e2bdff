"""State vectors that a sequence is read into, block by block.

Letters in suffixes: B batch, T time, N states, D width, H heads, K width of a head, S tokens, G both attentions of
all heads.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.components._init import Init, linear
from archlab.ops.dtypes import at_least_float32

Gate: TypeAlias = Literal["fixed", "lstm"]


class Projections(nn.Module):
    """Queries of two kinds, for one's own kind and for the other, and keys and values that serve both."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, init: Init) -> None:
        super().__init__()
        self.num_heads, width = num_heads, num_heads * head_dim
        self.query = linear(dim, width, bias=False, init=init)
        self.cross_query = linear(dim, width, bias=False, init=init)
        self.key = linear(dim, width, bias=False, init=init)
        self.value = linear(dim, width, bias=False, init=init)

    def queries(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is asked of one's own kind and of the other, each [B, T, H, K]."""
        return self._heads(self.query(x_BTD)), self._heads(self.cross_query(x_BTD))

    def memory(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [B, T, H, K]."""
        return self._heads(self.key(x_BTD)), self._heads(self.value(x_BTD))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.num_heads, -1))


class Seen(NamedTuple):
    """State vectors as attention sees them: behind the norm, and as keys and values."""

    normed_BND: Tensor
    keys_BNHK: Tensor
    values_BNHK: Tensor


class BlockStates(nn.Module):
    """The states' half of a block-recurrent layer (arXiv:2203.07852, section 3.2); states are [B, N, D]."""

    def __init__(
        self, dim: int, num_states: int, num_heads: int, head_dim: int, norm: nn.Module, gate: Gate, init: Init
    ) -> None:
        super().__init__()
        self.norm, self.project = norm, Projections(dim, num_heads, head_dim, init)
        found_dim = 2 * num_heads * head_dim
        self.gate = FixedGate(found_dim, dim, init) if gate == "fixed" else LSTMGate(found_dim, dim, init)
        self.first = nn.Parameter(torch.empty(num_states, dim))
        self.ids = nn.Parameter(torch.empty(num_states, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with small states and large ids, so that the states differ in what they ask."""
        nn.init.normal_(self.first, std=0.1)
        nn.init.normal_(self.ids)

    def before(self, batch_size: int) -> Tensor:
        """Return the states before the first block, in at least float32."""
        return at_least_float32(self.first).expand(batch_size, -1, -1).clone()

    def seen(self, states_BND: Tensor) -> Seen:
        """Return the states as they are seen until they change."""
        normed_BND = self.norm(states_BND.to(self.ids.dtype)) + self.ids
        return Seen(normed_BND, *self.project.memory(normed_BND))

    def renewed(self, states_BND: Tensor, seen: Seen, k_BSHK: Tensor, v_BSHK: Tensor, mask: Tensor | None) -> Tensor:
        """Return the states after a block whose tokens are where `mask` [B, 1, 1, S] is True, or all of them."""
        own_BNHK, cross_BNHK = self.project.queries(seen.normed_BND)
        found = (attend(own_BNHK, seen.keys_BNHK, seen.values_BNHK), attend(cross_BNHK, k_BSHK, v_BSHK, mask))
        return self.gate(torch.cat(found, dim=-2).flatten(-2), states_BND)


class FixedGate(nn.Module):
    """A share learned for each channel, c' = g c + (1 - g) z of the states c, with z = W h + b of what was found."""

    def __init__(self, found_dim: int, dim: int, init: Init) -> None:
        super().__init__()
        self.out = linear(found_dim, dim, bias=True, init=init)
        self.share = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with shares of about a half."""
        nn.init.normal_(self.share, std=0.1)

    def forward(self, h_BNG: Tensor, states_BND: Tensor) -> Tensor:
        """Return the new states, in the old ones' precision."""
        share_D = at_least_float32(self.share).sigmoid()
        return states_BND * share_D + at_least_float32(self.out(h_BNG)) * (1 - share_D)


class LSTMGate(nn.Module):
    """The gates of an LSTM, c' = f c + i tanh(z), biased to remember: f = sigmoid(. + 1), i = sigmoid(. - 1)."""

    def __init__(self, found_dim: int, dim: int, init: Init) -> None:
        super().__init__()
        self.out = linear(found_dim, 3 * dim, bias=True, init=init)

    def forward(self, h_BNG: Tensor, states_BND: Tensor) -> Tensor:
        """Return the new states, in the old ones' precision."""
        z_BND, input_BND, forget_BND = at_least_float32(self.out(h_BNG)).chunk(3, dim=-1)
        return states_BND * (forget_BND + 1).sigmoid() + z_BND.tanh() * (input_BND - 1).sigmoid()


def attend(q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return [B, T, H, K], the values by the softmax of scaled scores."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BSHK, v_BSHK))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
