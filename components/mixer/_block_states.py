"""State vectors of the Block-Recurrent Transformer, updated once per block of tokens (arXiv:2203.07852).

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
    """Queries of tokens or states for self-attention and for cross-attention, and keys and values for both."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, init: Init) -> None:
        super().__init__()
        self.num_heads, width = num_heads, num_heads * head_dim
        self.query = linear(dim, width, bias=False, init=init)
        self.cross_query = linear(dim, width, bias=False, init=init)
        self.key = linear(dim, width, bias=False, init=init)
        self.value = linear(dim, width, bias=False, init=init)

    def queries(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries for self-attention and for cross-attention, each [B, T, H, K]."""
        return self._heads(self.query(x_BTD)), self._heads(self.cross_query(x_BTD))

    def memory(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, each [B, T, H, K]."""
        return self._heads(self.key(x_BTD)), self._heads(self.value(x_BTD))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.num_heads, -1))


class ProjectedStates(NamedTuple):
    """Normalized state vectors with their ids, and their keys and values."""

    normed_BND: Tensor
    keys_BNHK: Tensor
    values_BNHK: Tensor


class BlockStates(nn.Module):
    """The state direction of a block-recurrent layer (arXiv:2203.07852, section 3.2); states are [B, N, D]."""

    def __init__(
        self, dim: int, num_states: int, num_heads: int, head_dim: int, norm: nn.Module, gate: Gate, init: Init
    ) -> None:
        super().__init__()
        self.norm, self.project = norm, Projections(dim, num_heads, head_dim, init)
        attended_dim = 2 * num_heads * head_dim
        self.gate = FixedGate(attended_dim, dim, init) if gate == "fixed" else LSTMGate(attended_dim, dim, init)
        self.first = nn.Parameter(torch.empty(num_states, dim))
        self.ids = nn.Parameter(torch.empty(num_states, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw small states and large ids, so that the states differ in their queries."""
        nn.init.normal_(self.first, std=0.1)
        nn.init.normal_(self.ids)

    def initial(self, batch_size: int) -> Tensor:
        """Return the learned states before the first block, in at least float32."""
        return at_least_float32(self.first).expand(batch_size, -1, -1).clone()

    def project_states(self, states_BND: Tensor) -> ProjectedStates:
        """Return the normalized states with their keys and values, which serve a whole block."""
        normed_BND = self.norm(states_BND.to(self.ids.dtype)) + self.ids
        return ProjectedStates(normed_BND, *self.project.memory(normed_BND))

    def update(
        self, states_BND: Tensor, projected: ProjectedStates, k_BSHK: Tensor, v_BSHK: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return the states after a block, the tokens where `mask` [B, 1, 1, S] is True, or all without a mask."""
        own_BNHK, cross_BNHK = self.project.queries(projected.normed_BND)
        to_states = attend(own_BNHK, projected.keys_BNHK, projected.values_BNHK)
        to_tokens = attend(cross_BNHK, k_BSHK, v_BSHK, mask)
        return self.gate(torch.cat((to_states, to_tokens), dim=-2).flatten(-2), states_BND)


class FixedGate(nn.Module):
    """A gate learned per channel, c' = g c + (1 - g) z of the states c, with z = W h + b of the attention outputs h."""

    def __init__(self, attended_dim: int, dim: int, init: Init) -> None:
        super().__init__()
        self.out = linear(attended_dim, dim, bias=True, init=init)
        self.share = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the gates to about 1/2."""
        nn.init.normal_(self.share, std=0.1)

    def forward(self, h_BNG: Tensor, states_BND: Tensor) -> Tensor:
        """Return the new states in the precision of the old ones."""
        share_D = at_least_float32(self.share).sigmoid()
        return states_BND * share_D + at_least_float32(self.out(h_BNG)) * (1 - share_D)


class LSTMGate(nn.Module):
    """The gates of an LSTM, c' = f c + i tanh(z), with biases to remember: f = sigmoid(. + 1), i = sigmoid(. - 1)."""

    def __init__(self, attended_dim: int, dim: int, init: Init) -> None:
        super().__init__()
        self.out = linear(attended_dim, 3 * dim, bias=True, init=init)

    def forward(self, h_BNG: Tensor, states_BND: Tensor) -> Tensor:
        """Return the new states in the precision of the old ones."""
        z_BND, input_BND, forget_BND = at_least_float32(self.out(h_BNG)).chunk(3, dim=-1)
        return states_BND * (forget_BND + 1).sigmoid() + z_BND.tanh() * (input_BND - 1).sigmoid()


def attend(q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax attention [B, T, H, K] with scores divided by sqrt(K)."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BSHK, v_BSHK))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
