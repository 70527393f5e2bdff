from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import RESERVED, Count, Param, Positive, Range, State, choice, register
from archlab.components._dt import softplus
from archlab.components._init import Init, linear
from archlab.components._ring import reserved
from archlab.ops.assertions import assert_async
from archlab.ops.dtypes import at_least_float32
from archlab.ops.log_linear import log_linear

from ._heads import heads
from .mamba2 import PARAMS, Mamba2

Levels: TypeAlias = Annotated[int, Range(low=2, high=62)]


@register(
    "mixer",
    "log_linear_mamba2",
    search={"state_dim": choice(16, 32, 64, 128), "head_dim": choice(16, 32, 64)},
    params=PARAMS | {"level_proj.weight": Param("hidden"), "level_scale": Param("vector")},
)
class LogLinearMamba2(Mamba2):
    """Mamba-2 with states of logarithmically many ranges of the past, log-linear attention (arXiv:2506.04761).

    x: [B, T, D] -> [B, T, D].  Ranges are those of a Fenwick tree: of the tokens before token t, one for each bit of t
    that is set, as long as the bit says. A head's read of a range, and of its own token, is multiplied by the
    level's softplus(level_scale * W x).
    State: the convolution's past, the position, and states [B, P, H, state_dim, head_dim] in at least float32, which
    grow with the logarithm of the number of tokens, up to P = num_levels - 1.
    Raises ValueError as Mamba-2 does.
    Deviations: the last level is that of all higher ones too, so that streams may be longer than 2^(num_levels - 1),
    from where on their state has a fixed size.

    Args:
        num_levels: Number of levels, the token's own and those of ranges, of which the last begins at
            2^(num_levels - 2) tokens.
        state_dim: Size N of the state of each channel.
        expand: Number of inner channels per channel of the model.
        head_dim: Width of a head; there are as many heads as it divides the inner channels into.
        num_groups: Number of groups of heads, each of which shares B and C and is normalized together.
        conv_size: Length of the short convolution in tokens.
        conv_bias: Whether the short convolution has a bias.
        dt_min: Smallest time step dt at initialization.
        dt_max: Largest time step dt at initialization.
        bias: Whether the projections have a bias.
        eps: Constant added to the mean square in the output norm.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_levels: Levels = 15,
        state_dim: Count = 128,
        expand: Count = 2,
        head_dim: Count = 64,
        num_groups: Count = 1,
        conv_size: Count = 4,
        conv_bias: bool = True,
        dt_min: Positive = 0.001,
        dt_max: Positive = 0.1,
        bias: bool = False,
        eps: Positive = 1e-5,
        init: Init = "normal",
    ) -> None:
        super().__init__(
            dim,
            state_dim=state_dim,
            expand=expand,
            head_dim=head_dim,
            num_groups=num_groups,
            conv_size=conv_size,
            conv_bias=conv_bias,
            dt_min=dt_min,
            dt_max=dt_max,
            bias=bias,
            eps=eps,
            init=init,
        )
        self.num_ranges = num_levels - 1
        self.level_proj = linear(dim, self.num_heads * num_levels, bias=False, init=init)
        self.level_scale = nn.Parameter(torch.ones(self.num_heads, num_levels))

    def init_state(self, batch_size: int) -> State:
        """Return no states, at position 0."""
        before = super().init_state(batch_size)
        empty = before.pop("states").new_zeros(batch_size, 0, self.num_heads, *self.head_dims)
        position_B = torch.zeros(batch_size, dtype=torch.int64, device=empty.device)
        return before | {"position": position_B, "states": empty}

    def reserve_state(self, state: State, num_tokens: int | None) -> State:
        """Return the state with ranges for a stream of `num_tokens` tokens."""
        state = super().reserve_state(state, num_tokens)
        wanted = self.num_ranges if num_tokens is None else min(self.num_ranges, num_tokens.bit_length())
        states = _pad_ranges(state["states"], max(wanted, state["states"].shape[1]))
        if states.shape[1] == self.num_ranges:  # which does not grow
            return state | {"states": states}
        return state | {"states": states, RESERVED: torch.ones_like(state["position"], dtype=torch.bool)}

    def scan(
        self, q_BTHK: Tensor, k: Tensor, v: Tensor, log_decay_BTH1: Tensor, x_BTD: Tensor, state: State | None
    ) -> tuple[Tensor, State]:
        """Return each query's read of all ranges [B, T, H, V], and the ranges after the last token."""
        state, T = state or self.init_state(q_BTHK.shape[0]), q_BTHK.shape[1]
        scales_BTHL = softplus(at_least_float32(self.level_scale) * heads(self.level_proj(x_BTD), self.num_heads))
        states = _pad_ranges(state["states"], self._count(state, T))
        y_BTHV, states = log_linear(q_BTHK, k, v, log_decay_BTH1[..., 0], scales_BTHL, state["position"], states)
        return y_BTHV, {"position": state["position"] + T, "states": states} | reserved(state)

    def _count(self, state: State, num_new: int) -> int:
        """Return the number of ranges of the stream after new tokens."""
        now = state["states"].shape[1]
        if now == self.num_ranges:
            return now
        if RESERVED in state:
            fits = (state["position"] + num_new < 1 << now).all()
            assert_async(fits, f"the stream exceeds the {(1 << now) - 1} tokens that room is reserved for")
            return now
        # The position is below 2^now, which is all that a shape says of it.
        return min(self.num_ranges, ((1 << now) - 1 + num_new).bit_length())


def _pad_ranges(states_BPHKV: Tensor, count: int) -> Tensor:
    """Return the states with zeros in further ranges."""
    return F.pad(states_BPHKV, (0, 0, 0, 0, 0, 0, 0, count - states_BPHKV.shape[1]))
