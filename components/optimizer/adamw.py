from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from archlab import AdamSettings, TrainedParam, UpdateRule, register

from ._adamw import adam_shapes, build_adamw


@register("optimizer", "adamw")
class AdamW(UpdateRule):
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's own; its betas and eps are those of `train:`.

    Keeps two moments of each parameter.
    """

    def __init__(self, adam: AdamSettings) -> None:
        self.adam = adam

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's, fused."""
        return build_adamw(groups, self.adam)

    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        """Return both moments and the count of steps."""
        return adam_shapes(param)
