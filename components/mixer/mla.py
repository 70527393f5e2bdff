from __future__ import annotations

from torch import Tensor, nn

from archlab import (
    Count,
    Factory,
    Fraction,
    Heads,
    Param,
    Positive,
    Recurrent,
    State,
    StateScope,
    TensorPlan,
    Width,
    choice,
    register,
    slot,
)
from archlab.components._init import Init, InitLinear, linear
from archlab.components.attention._shape import AttentionShape
from archlab.components.attention._window_state import Window

from ._latent_attention import LatentAttention


@register(
    "mixer",
    "mla",
    search={"num_heads": choice(1, 2, 4, 8), "latent_dim": choice(16, 32, 64, 128)},
    params={
        "query_down.weight": Param("hidden"),
        "query_up.weight": Param("hidden", tensor="column", scale={"attention.score_size": -1.0}),
        "latent_down.weight": Param("hidden"),
        "place_down.weight": Param("hidden"),
        "*_down.bias": Param("vector"),
        "attention.up.weight": Param("hidden", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
        "out.bias": Param("vector", branch=True),
    },
    tensor=TensorPlan(counts=("attention.shape.num_heads",), parts=("attention.position.inner",)),
)
class LatentMixer(Recurrent):
    """Multi-head latent attention, whose state is one latent per token instead of keys and values (arXiv:2405.04434).

    x: [B, T, D] -> [B, T, D].  State: that of WindowedAttention, with a latent [R] as the value and a rotated
    [P] as the key of all heads. One token attends to the latents themselves, several to the heads' keys and values.
    Raises ValueError where head_dim is null and num_heads does not divide D.

    Args:
        num_heads: Number of heads.
        latent_dim: Width R of the latent that keys and values are made of.
        query_latent_dim: Width of the latent that queries are made of; null makes them of x.
        head_dim: Width of a head's query and key without their positions; null for D / num_heads.
        position_dim: Width P of the further part of queries and keys that has a position; heads share the key's.
        value_head_dim: Width of a head's value; null for head_dim.
        scale: Factor of the scores; null for 1 / sqrt(head_dim + position_dim).
        norm: Norm of the latents.
        bias: Whether the projections to latents and the last one have a bias.
        dropout: Probability of zeroing an attention weight in training.
        window: Keys that a query sees: `full`, every earlier token of a stream of at most `window_size` tokens;
            `sliding`, the last `window_size` tokens including its own; `chunk`, its own block of `window_size` tokens.
        window_size: Length of the window in tokens, also the largest number of latents in the state.
        init: Distribution of the projections' weights.
        position: Positions that rotate the further part, or add a bias to the scores.
    """

    query_down: InitLinear | None
    query_norm: nn.Module | None

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        latent_dim: Width = 64,
        query_latent_dim: Width | None = None,
        head_dim: Count | None = None,
        position_dim: Count = 16,
        value_head_dim: Count | None = None,
        scale: Positive | None = None,
        norm: Factory = slot("norm", "rms"),
        bias: bool = False,
        dropout: Fraction = 0.0,
        window: Window = "full",
        window_size: Count = 2048,
        init: Init = "he",
        position: Factory = slot("position", "rope"),
    ) -> None:
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        content_dim = head_dim or dim // num_heads
        value_dim, self.query_dim = value_head_dim or content_dim, content_dim + position_dim
        self.query_down = linear(dim, query_latent_dim, bias=bias, init=init) if query_latent_dim else None
        self.query_norm = norm(query_latent_dim) if query_latent_dim else None
        self.query_up = linear(query_latent_dim or dim, num_heads * self.query_dim, bias=False, init=init)
        self.latent_down = linear(dim, latent_dim, bias=bias, init=init)
        self.latent_norm = norm(latent_dim)
        self.place_down = linear(dim, position_dim, bias=bias, init=init)
        self.attention = LatentAttention(
            AttentionShape(num_heads, 1, position_dim, latent_dim, scale or self.query_dim**-0.5),
            position(num_heads, position_dim).require_place("attention"),
            content_dim=content_dim,
            value_head_dim=value_dim,
            dropout=dropout,
            window=window,
            window_size=window_size,
            init=init,
        )
        self.out = linear(num_heads * value_dim, dim, bias=bias, init=init)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Make queries and latents, attend with every head, and project the concatenated outputs."""
        scope, query_BTD = StateScope(state), x_BTD
        if self.query_down is not None and self.query_norm is not None:
            query_BTD = scope("query_norm", self.query_norm, self.query_down(x_BTD))
        q_BTHK = self.query_up(query_BTD).unflatten(-1, (-1, self.query_dim))
        latent_BTR = scope("latent_norm", self.latent_norm, self.latent_down(x_BTD))
        place_BT1P = self.place_down(x_BTD).unsqueeze(2)
        y_BTHV = scope("attention", self.attention, q_BTHK, place_BT1P, latent_BTR.unsqueeze(2))
        return self.out(y_BTHV.flatten(-2)), scope.state
