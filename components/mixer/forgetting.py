from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Factory, Fraction, Heads, Param, Positive, TensorPlan, choice, register, slot
from archlab.components._init import Init, linear
from archlab.components.attention._window_state import Window
from archlab.ops.dtypes import at_least_float32

from ._forgetting_attention import ForgettingAttention
from .attention import PARAMS, MultiHeadAttention, OutputGate


@register(
    "mixer",
    "forgetting",
    search={"num_heads": choice(1, 2, 4, 8), "output_gate": choice("none", "head", "feature")},
    params={
        **PARAMS,
        "forget.weight": Param("input", tensor="column"),
        "forget.bias": Param("vector", tensor="column"),
    },
    tensor=TensorPlan(
        counts=("attention.shape.num_heads", "attention.shape.num_kv_heads"), parts=("attention.position",)
    ),
)
class ForgettingMixer(MultiHeadAttention):
    """Multi-head softmax attention that forgets by gates, the Forgetting Transformer's (arXiv:2503.02130).

    x: [B, T, D] -> [B, T, D].  The score of query i and key j is q_i k_j + log f_{j+1} + ... + log f_i, with a gate
    f = sigmoid(w x + b) per head and token.  State: keys, values and log gates of a window.
    The weights of all pairs of a query and a key take memory.
    Raises ValueError where num_heads does not divide D, where num_kv_heads does not divide num_heads, or for a qk_norm
    with a state.
    Deviations: the Pro block's shift of keys and values and its norm of the output are not implemented.

    Args:
        num_heads: Number of query heads, each with a forget gate.
        num_kv_heads: Number of key and value heads; null for one per query head.
        head_dim: Width of a head; null for D / num_heads.
        scale: Factor of the scores; null for 1 / sqrt(head_dim).
        qk_norm: Norm of each head's query, and another of each head's key, before positions.
        output_gate: Whether the output is multiplied by the sigmoid of a projection of x, which is one number per
            `head` or per `feature` of every head, or by `none`.
        bias: Whether the projections other than that of the forget gates, which has one, have a bias.
        dropout: Probability of zeroing an attention weight in training.
        window: Keys that a query sees: `full`, every earlier token of a stream of at most `window_size` tokens;
            `sliding`, the last `window_size` tokens including its own; `chunk`, its own block of `window_size` tokens.
        window_size: Length of the window in tokens, also the largest number of keys and values in the state.
        init: Distribution of the projections' weights.
        position: Positions that rotate queries and keys, or add a bias to the scores; the gates need none.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        num_kv_heads: Heads | None = None,
        head_dim: Count | None = None,
        scale: Positive | None = None,
        qk_norm: Factory = slot("norm", "none"),
        output_gate: OutputGate = "none",
        bias: bool = False,
        dropout: Fraction = 0.0,
        window: Window = "full",
        window_size: Count = 2048,
        init: Init = "he",
        position: Factory = slot("position", "none"),
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            scale=scale,
            qk_norm=qk_norm,
            output_gate=output_gate,
            bias=bias,
            init=init,
            attention=partial(ForgettingAttention, dropout=dropout, window=window, window_size=window_size),
            position=position,
        )
        self.forget = linear(dim, num_heads, bias=True, init=init)

    def _conditions(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """Return the logarithms of the forget gates [B, T, H]."""
        return (F.logsigmoid(at_least_float32(self.forget(x_BTD))),)
