"""Letters in suffixes: B batch, T time, D width, H heads, K width of a head, N states, C steps of a piece of at most
one block, S at most a block of earlier steps and a piece, G both attentions of all heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import Count, Factory, Heads, Param, Recurrent, State, StateScope, choice, register, slot
from archlab.components._init import Init, linear
from archlab.components._ring import num_slots, reserve_rings, reserved, unroll_ring, update_ring
from archlab.components.attention._shape import AttentionShape

from ._block_states import BlockStates, Gate, Projections, attend


@register(
    "mixer",
    "block_recurrent",
    search={"num_heads": choice(1, 2, 4, 8), "gate": choice("fixed", "lstm")},
    params={
        "project.query.weight": Param("hidden", tensor="row", scale={"attention.score_size": -1.0}),
        "project.cross_query.weight": Param("hidden", tensor="row", scale={"head_dim": -0.5}),
        "states.project.query.weight": Param("hidden", tensor="row", scale={"head_dim": -0.5}),
        "states.project.cross_query.weight": Param("hidden", tensor="row", scale={"head_dim": -0.5}),
        "*.key.weight": Param("hidden", tensor="row"),
        "*.value.weight": Param("hidden", tensor="row"),
        "out.weight": Param("hidden", tensor="row", branch=True),
        "states.gate.out.weight": Param("hidden", tensor="row"),
        "states.gate.out.bias": Param("vector"),
        "states.gate.share": Param("vector"),
        "states.first": Param("input"),
        "states.ids": Param("input"),
    },
)
class BlockRecurrentAttention(Recurrent):
    """Attention to earlier tokens and to state vectors that are updated once per block (arXiv:2203.07852).

    x: [B, T, D] -> [B, T, D].  State: the attention's own; position [B], a ring of the keys and values of the last
    `block_size` tokens, and states [B, N, D] in at least float32.  Tokens attend to each other through `attention`
    (in the paper sliding, with block_size as its window_size) and to the states after the blocks before theirs. At
    the end of a block the states attend to its tokens and to themselves, and the result is gated into them.
    Raises ValueError where num_heads does not divide D, or where the states' norm is one over time.
    Deviations: of the paper's variants only the one without an ffn for the states ("skip"); states attend to the
    finished block, where the authors' code adds the one before; keys and queries are not normalized.

    Args:
        num_heads: Number of heads.
        head_dim: Width of a head; null for D / num_heads.
        block_size: Number of tokens after which the states are updated.
        num_states: Number of state vectors.
        gate: How the states are updated: `fixed`, by a learned share per channel; `lstm`, by an LSTM's gates.
        init: Distribution of the projections' weights.
        norm: Norm of the states before their projections.
        attention: Attention function among tokens.
        position: Positions that rotate queries and keys, or add a bias to the scores, among tokens.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
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
        self.block_size, self.head_dim, self.head_shape = block_size, head_dim, (num_heads, head_dim)
        self.project = Projections(dim, num_heads, head_dim, init)
        self.out = linear(2 * num_heads * head_dim, dim, bias=False, init=init)
        state_norm = norm(dim)
        if isinstance(state_norm, Recurrent):
            raise ValueError(f"{type(state_norm).__name__} works over time: states need a norm of each vector")
        self.states = BlockStates(dim, num_states, num_heads, head_dim, state_norm, gate, init)
        shape = AttentionShape(num_heads, num_heads, head_dim, head_dim, scale=head_dim**-0.5)
        self.attention = attention(shape, position(num_heads, head_dim).require_place("attention"))

    def init_state(self, batch_size: int) -> State:
        """Return the learned states and an empty block."""
        states_BND = self.states.initial(batch_size)
        keys = self.project.key.weight.new_zeros(batch_size, 0, *self.head_shape)
        position = torch.zeros(batch_size, dtype=torch.int64, device=keys.device)
        own = {"position": position, "keys": keys, "values": torch.zeros_like(keys), "states": states_BND}
        return super().init_state(batch_size) | own

    def reserve_state(self, state: State, num_tokens: int | None) -> State:
        """Return the state with a block, and the attention's state, that so many tokens do not outgrow."""
        state = super().reserve_state(state, num_tokens)
        return reserve_rings(state, {"keys": self.block_size, "values": self.block_size}, num_tokens)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend to tokens and states, and update the states at the end of each block."""
        scope = StateScope(state)
        (own_BTHK, cross_BTHK), (k_BTHK, v_BTHK) = self.project.queries(x_BTD), self.project.memory(x_BTD)
        y_BTHK = scope("attention", self.attention, own_BTHK, k_BTHK, v_BTHK)
        if state is None:
            read_BTHK, states_BND = self._prefill(cross_BTHK, k_BTHK, v_BTHK)
        else:
            read_BTHK, states_BND = self._extend(cross_BTHK, k_BTHK, v_BTHK, state)
        joined_BTG = torch.cat((y_BTHK, read_BTHK), dim=-2).flatten(-2)
        own = self._update_block(k_BTHK, v_BTHK, state) | {"states": states_BND} | reserved(state)
        return self.out(joined_BTG), scope.state | own

    def _update_block(self, k_BTHK: Tensor, v_BTHK: Tensor, state: State | None) -> State:
        """Return the position after the new tokens, and the keys and values of the last block."""
        (B, T), W = k_BTHK.shape[:2], self.block_size
        old_k, old_v = (state["keys"], state["values"]) if state else (None, None)
        start_B = state["position"] if state else torch.zeros(B, dtype=torch.int64, device=k_BTHK.device)
        position_BT = start_B[:, None] + torch.arange(T, device=k_BTHK.device)
        slots = num_slots(state, 0 if old_k is None else old_k.shape[1], T, W)
        keys, values = (update_ring(old, new, position_BT, W, slots) for old, new in ((old_k, k_BTHK), (old_v, v_BTHK)))
        return {"position": start_B + T, "keys": keys, "values": values}

    def _prefill(self, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the states from position 0, block by block; return the outputs and the states after them."""
        B, W = q_BTHK.shape[0], self.block_size
        states_BND, outputs = self.states.initial(B), []
        for q, k, v in zip(*(x.split(W, dim=1) for x in (q_BTHK, k_BTHK, v_BTHK)), strict=True):
            projected = self.states.project_states(states_BND)
            outputs.append(attend(q, projected.keys_BNHK, projected.values_BNHK))
            if q.shape[1] == W:
                states_BND = self.states.update(states_BND, projected, k, v, None)
        return torch.cat(outputs, dim=1), states_BND

    def _extend(self, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Attend to the states in pieces of at most a block, each of which may cross one boundary between blocks."""
        W, outputs = self.block_size, []
        keys, values = (
            unroll_ring(state[name], state["position"][:, None], state[name].shape[1]).to(new.dtype)
            for name, new in (("keys", k_BTHK), ("values", v_BTHK))
        )
        states_BND, phase_B = state["states"], state["position"] % W
        for q, k, v in zip(*(x.split(W, dim=1) for x in (q_BTHK, k_BTHK, v_BTHK)), strict=True):
            keys, values = torch.cat((keys, k), dim=1), torch.cat((values, v), dim=1)
            y_BCHK, states_BND = self._cross_boundary(q, keys, values, states_BND, phase_B)
            keys, values, phase_B = keys[:, -W:], values[:, -W:], (phase_B + q.shape[1]) % W
            outputs.append(y_BCHK)
        return torch.cat(outputs, dim=1), states_BND

    def _cross_boundary(
        self, q_BCHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, states_BND: Tensor, phase_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs of a piece, and the states after it; `phase` steps of its block came before.

        The boundary is at a different step in each sample: masks select the steps of the block that ends.
        """
        C, W, before = q_BCHK.shape[1], self.block_size, k_BSHK.shape[1] - q_BCHK.shape[1]
        projected = self.states.project_states(states_BND)
        y_BCHK = attend(q_BCHK, projected.keys_BNHK, projected.values_BNHK)
        place_BS = torch.arange(before + C, device=phase_B.device) - (before - phase_B)[:, None]
        in_block = ((place_BS >= 0) & (place_BS < W))[:, None, None]
        updated_BND = self.states.update(states_BND, projected, k_BSHK, v_BSHK, in_block)
        after_BND = torch.where((phase_B + C >= W)[:, None, None], updated_BND, states_BND)
        if C > 1:  # a piece of one step crosses no boundary
            later = self.states.project_states(after_BND)
            y_later_BCHK = attend(q_BCHK, later.keys_BNHK, later.values_BNHK)
            y_BCHK = torch.where((place_BS[:, before:] >= W)[..., None, None], y_later_BCHK, y_BCHK)
        return y_BCHK, after_BND
