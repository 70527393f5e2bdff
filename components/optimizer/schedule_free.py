from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archlab import AdamSettings, NonNegative, TrainedParam, UpdateRule, choice, register

from ._elementwise import Elementwise


@register("optimizer", "schedule_free", search={"weight_power": choice(0.0, 1.0, 2.0)})
class ScheduleFree(UpdateRule):
    """AdamW without a schedule (arXiv:2405.15682): trained near a fast iterate, used at the average of all of them.

    Say `train.schedule: constant`, of which the warm-up is left: the average replaces a decay, and a run may be
    ended anywhere. `train.beta1` is how near to the average gradients are taken; `beta2`, `eps` and decay are Adam's.
    Evaluations, checkpoints' weights and the trained model are the average. Keeps the fast iterate and one moment.

    Args:
        averaging_power: Power of the step's number by which the average weights it; 0 weights all steps alike.
        weight_power: Power of the learning rate by which the average weights a step, for a warm-up to weigh less.
    """

    averages = True

    def __init__(
        self, adam: AdamSettings, *, averaging_power: NonNegative = 0.0, weight_power: NonNegative = 2.0
    ) -> None:
        if adam.betas[0] == 0:
            raise ValueError("needs a train.beta1 above 0: at 0 the average equals the point where gradients are taken")
        self.adam, self.powers = adam, (averaging_power, weight_power)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer."""
        own = {"betas": self.adam.betas, "eps": self.adam.eps, "powers": self.powers}
        return _ScheduleFree(groups, own | {"num_updates": 0, "weight_sum": 0.0, "largest_lr": 0.0, "share": 1.0})

    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        """Return the fast iterate, z, and the mean of squared gradients."""
        return {"z": param.shape, "exp_avg_sq": param.shape}


class _ScheduleFree(Elementwise):
    """Parameters are y, where gradients are taken; from y = beta1 x + (1 - beta1) z follows the average x."""

    progress = ("num_updates", "weight_sum", "largest_lr", "share")

    def begin(self, group: dict[str, Any]) -> None:
        group["num_updates"] += 1
        group["largest_lr"] = max(group["lr"], group["largest_lr"])
        of_step, of_lr = group["powers"]
        weight = group["num_updates"] ** of_step * group["largest_lr"] ** of_lr
        group["weight_sum"] += weight
        group["share"] = weight / group["weight_sum"]

    def init_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        return {"z": parameter.detach().clone(), "exp_avg_sq": torch.zeros_like(parameter)}

    def update(self, x: Tensor, gradient: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]) -> None:
        z, squares, (beta1, beta2) = state["z"], state["exp_avg_sq"], group["betas"]
        squares.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = squares.div(1 - beta2 ** group["num_updates"]).sqrt_().add_(group["eps"])
        step = torch.div(gradient, size, out=size).add_(x, alpha=group["weight_decay"])
        # Of y: it follows the average, which takes its share of z, and then a part of the step of z.
        share, lr = group["share"], group["lr"]
        x.lerp_(z, share).add_(step, alpha=lr * (beta1 * (1 - share) - 1))
        z.sub_(step, alpha=lr)

    def averaged(self, parameter: nn.Parameter) -> Tensor:
        """Return the average."""
        beta1 = next(group["betas"][0] for group in self.param_groups if any(p is parameter for p in group["params"]))
        return parameter + (self.state[parameter]["z"] - parameter) * (1 - 1 / beta1)
