from __future__ import annotations

from functools import partial

from torch import Tensor

from archlab import Count, Factory, Heads, Param, Positive, TensorPlan, choice, register, slot
from archlab.components._init import Init, linear

from ._native_sparse_attention import NativeSparseAttention
from .attention import PARAMS, MultiHeadAttention


@register(
    "mixer",
    "native_sparse",
    search={
        "num_heads": choice(1, 2, 4, 8),
        "block_size": choice(16, 32, 64),
        "num_selected": choice(4, 8, 16),
        "sliding_size": choice(64, 128, 256, 512),
    },
    params={
        **{name: param for name, param in PARAMS.items() if not name.startswith("gate.")},
        "branch_gate.weight": Param("hidden", tensor="column"),
    },
    tensor=TensorPlan(
        counts=("attention.shape.num_heads", "attention.shape.num_kv_heads"), parts=("attention.position",)
    ),
)
class NativeSparseMixer(MultiHeadAttention):
    """Native Sparse Attention: compressed, selected and latest keys, with gates per head (NSA, arXiv:2502.11089).

    x: [B, T, D] -> [B, T, D].  A head's output is g_1 y_1 + g_2 y_2 + g_3 y_3, with gates g = sigmoid(w x). y_1 attends
    to the means of complete blocks of keys and values; y_2 to the keys of `num_selected` blocks: the first one of the
    stream, the query's own, the one before it, and those whose means have the largest weights in y_1, summed over the
    heads that share keys; y_3 to the last `sliding_size` keys. State: keys and values of `window_size` tokens, up to
    which it grows with every token.
    y_3 takes the time of two times sliding_size keys per query at most. On a CPU y_2 takes that of its blocks' keys
    where a call has at least 256 queries and twice as many keys as these, without a bias of single keys; elsewhere the
    weights of all pairs are computed under a mask.
    Raises ValueError where num_heads does not divide D, where num_kv_heads does not divide num_heads, for fewer than 3
    selected blocks, where block_size does not divide window_size, or for a qk_norm with a state.
    Deviations: blocks are compressed by their means rather than by a learned function, do not overlap, and are those
    that are selected; the three branches share keys and values. So it is in flash-linear-attention.

    Args:
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads; null for one per query head.
        head_dim: Width of a head; null for D / num_heads.
        scale: Factor of the scores; null for 1 / sqrt(head_dim).
        qk_norm: Norm of each head's query, and another of each head's key, before positions.
        block_size: Number of keys of a block.
        num_selected: Number of blocks whose keys a query reads, three of them the first and the latest ones.
        sliding_size: Number of latest keys, a query's own among them, that the third branch reads.
        window_size: Number of latest keys that any branch reads, in whole blocks, a query's own block among them.
        bias: Whether the projections other than that of the gates have a bias.
        init: Distribution of the projections' weights.
        position: Positions that rotate queries and keys, or add a bias to the scores of single keys.
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
        block_size: Count = 64,
        num_selected: Count = 16,
        sliding_size: Count = 512,
        window_size: Count = 2048,
        bias: bool = False,
        init: Init = "he",
        position: Factory = slot("position", "rope"),
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            scale=scale,
            qk_norm=qk_norm,
            bias=bias,
            init=init,
            attention=partial(
                NativeSparseAttention,
                block_size=block_size,
                num_selected=num_selected,
                sliding_size=sliding_size,
                window_size=window_size,
            ),
            position=position,
        )
        self.branch_gate = linear(dim, 3 * num_heads, bias=False, init=init)

    def _conditions(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """Return the gates of the three branches [B, T, H, 3]."""
        return (self.branch_gate(x_BTD).sigmoid().unflatten(-1, (-1, 3)),)
