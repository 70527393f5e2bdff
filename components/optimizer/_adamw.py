"""torch's fused AdamW, of whole parameters and of those that ranks divide, alone and beside another optimizer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from archlab import AdamSettings, TrainedParam


def build_adamw(groups: list[dict[str, Any]], adam: AdamSettings) -> torch.optim.AdamW:
    """Return a fused AdamW of parameter groups."""
    kinds = {isinstance(parameter, DTensor) for group in groups for parameter in group["params"]}
    optimizer = MixedAdamW if len(kinds) > 1 else torch.optim.AdamW
    return optimizer(groups, betas=adam.betas, eps=adam.eps, fused=True)


def adam_shapes(param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of Adam's moments, and of its count of steps."""
    return {"step": (), "exp_avg": param.shape, "exp_avg_sq": param.shape}


class MixedAdamW(torch.optim.AdamW):
    """AdamW of parameters of which some are divided and some are whole, which no fused step takes together."""

    def step(self, closure: Any = None) -> Any:
        """Make the step of both kinds one after the other."""
        groups = self.param_groups
        parts = [
            (group, [p for p in group["params"] if isinstance(p, DTensor) == is_divided])
            for group in groups
            for is_divided in (True, False)
        ]
        self.param_groups = [{**group, "params": params} for group, params in parts if params]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


class BesideAdamW(torch.optim.Optimizer):
    """An optimizer of some groups, and AdamW of those whose `adamw` is true, with one state and one list of groups."""

    def __init__(self, groups: list[dict[str, Any]], adam: AdamSettings) -> None:
        others = [group for group in groups if group["adamw"]]
        self._adamw = build_adamw(others, adam) if others else None
        super().__init__(groups, {})

    def begin(self, group: dict[str, Any]) -> None:
        """Prepare the updates of a group, such as its step count."""

    @abstractmethod
    def update(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        """Update a parameter that has a gradient, and its state."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make a step of both."""
        assert closure is None, "gradients are accumulated before the step"
        if self._adamw is not None:
            # Set again each time: loading a state replaces both.
            self._adamw.state = self.state
            self._adamw.param_groups = [group for group in self.param_groups if group["adamw"]]
            self._adamw.step()
        for group in (group for group in self.param_groups if not group["adamw"]):
            self.begin(group)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group)
