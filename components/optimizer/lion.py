from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archlab import AdamSettings, Beta, TrainedParam, UpdateRule, choice, register

from ._elementwise import Elementwise


@register("optimizer", "lion", search={"beta1": choice(0.9, 0.95), "beta2": choice(0.98, 0.99)})
class Lion(UpdateRule):
    """The sign of an interpolation of momentum and gradient, with decoupled weight decay (arXiv:2302.06675).

    Every number moves by the learning rate, which is therefore 3 to 10 times as small as Adam's, and the weight decay
    as many times as large. Keeps one moment of each parameter. The betas of `train:` are those of Adam, and not used.

    Args:
        beta1: Weight of the momentum in the update.
        beta2: Decay of the momentum.
    """

    def __init__(self, adam: AdamSettings, *, beta1: Beta = 0.9, beta2: Beta = 0.99) -> None:
        self.betas = beta1, beta2

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return _Lion(groups, {"betas": self.betas})

    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        """Return the momentum."""
        return {"exp_avg": param.shape}


class _Lion(Elementwise):
    def init_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(parameter)}

    def update(self, x: Tensor, gradient: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]) -> None:
        momentum, (beta1, beta2) = state["exp_avg"], group["betas"]
        x.mul_(1 - group["lr"] * group["weight_decay"])
        x.add_(torch.lerp(gradient, momentum, beta1).sign_(), alpha=-group["lr"])
        momentum.lerp_(gradient, 1 - beta2)
