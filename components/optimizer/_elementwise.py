"""Optimizers that update each number by its own gradient and state, wherever ranks have it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Elementwise(torch.optim.Optimizer):
    """An optimizer whose step is `begin` for each group and `update` for each of its parameters."""

    def begin(self, group: dict[str, Any]) -> None:
        """Prepare the updates of a group, such as its step count."""

    @abstractmethod
    def init_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the state before the first update, divided where the parameter is."""

    @abstractmethod
    def update(self, x: Tensor, gradient: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]) -> None:
        """Update this rank's part of a parameter and of its state in place."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make a step of all groups."""
        assert closure is None, "gradients are accumulated before the step"
        for group in self.param_groups:
            self.begin(group)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(self.init_state(parameter))
        own = {name: local(tensor) for name, tensor in state.items()}
        self.update(local(parameter), local(parameter.grad), own, group)  # type: ignore[arg-type]


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
