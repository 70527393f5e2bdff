"""Attention with pointwise weights: each is a function of its own score alone, without a softmax over the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.components.attention._window import WindowedAttention
from archlab.ops.dtypes import at_least_float32


class PointwiseAttention(WindowedAttention):
    """Weights f(q k^T / n + bias) for the n visible keys of a query, and 0 for the others, Mega eq. 12.

    Shapes, state and knobs are those of WindowedAttention. The scores are divided by n, so the scale is not used.
    """

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head, which no scale divides."""
        return self.shape.key_dim

    def weigh(self, scores: Tensor) -> Tensor:
        """Return f of the scores."""
        raise NotImplementedError

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Sum the visible values by their weights."""
        # clamp_min: the padding of a last block are queries without a visible key.
        scores_BHQS = at_least_float32(q_BHQK @ k_BHSK.mT) / mask.sum(-1, keepdim=True).clamp_min(1)
        if bias is not None:
            scores_BHQS = scores_BHQS + bias.to(scores_BHQS.dtype)
        # f(0) is not 0 in general (laplace), so the mask applies to the weights rather than to the scores.
        weights_BHQS = torch.where(mask, self.weigh(scores_BHQS), 0.0)
        return weights_BHQS.to(v_BHSV.dtype) @ v_BHSV
