"""Letters in suffixes: B batch, T time, D width, H heads, K width of a head, N states, C steps of a piece of at most
one block, S a block of kept steps and a piece, G both attentions of all heads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Factory, Recurrent, State, StateScope, choice, register, slot
from archlab.components._init import Init, linear

from ._block_states import BlockStates, Gate, Projections, attend


@register("mixer", "block_recurrent", search={"num_heads": choice(1, 2, 4, 8), "gate": choice("fixed", "lstm")})
class BlockRecurrentAttention(Recurrent):
    """Attention to earlier tokens and to states that every block of tokens renews (arXiv:2203.07852).

    x: [B, T, D] -> [B, T, D].  State: the attention's own; position [B], the keys and values of the last `block_size`
    tokens, and states [B, N, D] in at least float32.  Tokens attend to each other through `attention` (the paper's:
    sliding, its window_size the block_size) and to the states that the blocks before theirs have left. At the end of
    a block its tokens and the states themselves are attended to by the states, and gated into them.
    Raises ValueError where num_heads does not divide D, or where the states' norm is one over time.
    Deviations: of the paper's forms only the one without an ffn for the states ("skip"); states attend to the finished
    block, where the authors' code adds the one before; keys and queries are not normalised.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        head_dim: Count | None = None,
        block_size: Count = 512,
        num_states: Count = 512,
        gate: Gate = "fixed",
        init: Init = "he",
        norm: Factory = slot("norm", "rms"),
        attention: Factory = slot("attention", "softmax"),
        position: Factory = slot("position", "relative_bias"),
    ) -> None:
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        head_dim = head_dim or dim // num_heads
        self.block_size, self.kept = block_size, (block_size, num_heads, head_dim)
        self.project = Projections(dim, num_heads, head_dim, init)
        self.out = linear(2 * num_heads * head_dim, dim, bias=False, init=init)
        state_norm = norm(dim)
        if isinstance(state_norm, Recurrent):
            raise ValueError(f"{type(state_norm).__name__} works over time: states need a norm of each vector")
        self.states = BlockStates(dim, num_states, num_heads, head_dim, state_norm, gate, init)
        placed = position(num_heads, head_dim).placed("attention")
        self.attention = attention(num_heads, num_heads, head_dim, head_dim, head_dim**-0.5, placed)

    def init_state(self, batch_size: int) -> State:
        """Return the learned states, and no token."""
        states_BND = self.states.before(batch_size)
        keys = self.project.key.weight.new_zeros(batch_size, *self.kept)
        position = torch.zeros(batch_size, dtype=torch.int64, device=keys.device)
        own = {"position": position, "keys": keys, "values": torch.zeros_like(keys), "states": states_BND}
        return super().init_state(batch_size) | own

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend to tokens and states, and let the blocks that end renew the states."""
        stream = StateScope(state)
        (own_BTHK, cross_BTHK), (k_BTHK, v_BTHK) = self.project.queries(x_BTD), self.project.memory(x_BTD)
        y_BTHK = stream("attention", self.attention, own_BTHK, k_BTHK, v_BTHK)
        if state is None:
            read_BTHK, own = self._from_start(cross_BTHK, k_BTHK, v_BTHK)
        else:
            read_BTHK, own = self._streamed(cross_BTHK, k_BTHK, v_BTHK, state)
        joined_BTG = torch.cat((y_BTHK, read_BTHK), dim=-2).flatten(-2)
        return self.out(joined_BTG), stream.state | own

    def _from_start(self, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor) -> tuple[Tensor, State]:
        """Read the states block by block, from the first token on."""
        (B, T), W = q_BTHK.shape[:2], self.block_size
        states_BND, read = self.states.before(B), []
        for q, k, v in zip(*(x.split(W, dim=1) for x in (q_BTHK, k_BTHK, v_BTHK)), strict=True):
            seen = self.states.seen(states_BND)
            read.append(attend(q, seen.keys_BNHK, seen.values_BNHK))
            if q.shape[1] == W:
                states_BND = self.states.renewed(states_BND, seen, k, v, None)
        keys, values = (F.pad(x[:, -W:], (0, 0, 0, 0, max(W - T, 0), 0)).contiguous() for x in (k_BTHK, v_BTHK))
        position_B = torch.full((B,), T, dtype=torch.int64, device=q_BTHK.device)
        return torch.cat(read, dim=1), {"position": position_B, "keys": keys, "values": values, "states": states_BND}

    def _streamed(self, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, state: State) -> tuple[Tensor, State]:
        """Read the states in pieces, each of which may hold one end of a block, wherever the stream's samples are."""
        W, read = self.block_size, []
        keys, values = state["keys"].to(k_BTHK.dtype), state["values"].to(v_BTHK.dtype)
        states_BND, phase_B = state["states"], state["position"] % W
        for q, k, v in zip(*(x.split(W, dim=1) for x in (q_BTHK, k_BTHK, v_BTHK)), strict=True):
            keys, values = torch.cat((keys, k), dim=1), torch.cat((values, v), dim=1)
            y_BCHK, states_BND = self._piece(q, keys, values, states_BND, phase_B)
            keys, values, phase_B = keys[:, -W:].clone(), values[:, -W:].clone(), (phase_B + q.shape[1]) % W
            read.append(y_BCHK)
        position_B = state["position"] + q_BTHK.shape[1]
        return torch.cat(read, dim=1), {"position": position_B, "keys": keys, "values": values, "states": states_BND}

    def _piece(
        self, q_BCHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, states_BND: Tensor, phase_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the queries read, and the states after them; `phase` steps of their block came before."""
        C, W = q_BCHK.shape[1], self.block_size
        seen = self.states.seen(states_BND)
        y_BCHK = attend(q_BCHK, seen.keys_BNHK, seen.values_BNHK)
        place_BS = torch.arange(W + C, device=phase_B.device) - (W - phase_B)[:, None]
        in_block = ((place_BS >= 0) & (place_BS < W))[:, None, None]
        renewed_BND = self.states.renewed(states_BND, seen, k_BSHK, v_BSHK, in_block)
        after_BND = torch.where((phase_B + C >= W)[:, None, None], renewed_BND, states_BND)
        if C > 1:  # the first query of a piece never comes after the end of a block
            later = self.states.seen(after_BND)
            y_later_BCHK = attend(q_BCHK, later.keys_BNHK, later.values_BNHK)
            y_BCHK = torch.where((place_BS[:, W:] >= W)[..., None, None], y_later_BCHK, y_BCHK)
        return y_BCHK, after_BND
