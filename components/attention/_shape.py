from __future__ import annotations

from dataclasses import dataclass

from archlab import TensorPlan

# Of attention functions whose heads do not read each other; they keep their shape as `shape`.
BY_HEADS = TensorPlan(counts=("shape.num_heads", "shape.num_kv_heads"), parts=("position",))


@dataclass(frozen=True)
class AttentionShape:
    """Sizes that a mixer fixes for its attention function, and the scale of the scores.

    Queries are [B, T, num_heads, key_dim], keys [B, T, num_kv_heads, key_dim], values [B, T, num_kv_heads, value_dim].
    num_kv_heads divides num_heads. Scores are scale * q k^T.
    """

    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    scale: float

    @property
    def score_size(self) -> float:
        """The score of a query and an equal key of unit features: how scores grow with the width of a head."""
        return self.key_dim * self.scale

    @property
    def group_size(self) -> int:
        """The number of query heads that share a key head, as in grouped-query attention (arXiv:2305.13245)."""
        return self.num_heads // self.num_kv_heads
