from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from archlab import AdamSettings, Count, TrainedParam, UpdateRule, choice, register

from ._adamw import BesideAdamW, adam_shapes

SIDES = ("left", "right")


@register("optimizer", "soap", search={"precondition_every": choice(5, 10, 20)})
class SOAP(UpdateRule):
    """Adam in the slowly turning eigenbasis of Shampoo's preconditioner (arXiv:2409.11321).

    Matrices are updated so, whatever their role; vectors by AdamW. `beta1`, `beta2` and `eps` of `train:` are those of
    both, and `beta2` is that of the preconditioner. Keeps two moments, and of each side of a matrix two squares.

    Args:
        precondition_every: Updates between two turns of the basis, by a power iteration and a QR decomposition.
        max_dim: The longest side of a matrix that has a basis; a longer one is left as it is, as of a vocabulary.

    Deviations:
        Of a tensor of several matrices, such as the experts of a mixture, each has bases of its own. As in the paper's
        code the first update of matrices only begins their statistics; vectors are updated by it.
    """

    divided_by = ()
    parametrizations = ("standard",)

    def __init__(self, adam: AdamSettings, *, precondition_every: Count = 10, max_dim: Count = 10000) -> None:
        self.adam, self.max_dim, self.every = adam, max_dim, precondition_every

    def settings(self, param: TrainedParam) -> Mapping[str, object]:
        """Return whether a parameter is AdamW's."""
        return {"adamw": len(param.shape) < 2 or param.declared.param.role == "vector"}

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of both kinds of group."""
        own = {"betas": self.adam.betas, "eps": self.adam.eps, "every": self.every, "max_dim": self.max_dim}
        own["num_updates"] = 0
        return _SOAP([group if group["adamw"] else {**own, **group} for group in groups], self.adam)

    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        """Return the moments, and means of products and bases of both sides."""
        if self.settings(param)["adamw"]:
            return adam_shapes(param)
        shapes = {"exp_avg": param.shape, "exp_avg_sq": param.shape}
        for side, size in self._sides(param.shape):
            shapes |= dict.fromkeys((side, f"{side}_basis"), (*param.shape[:-2], size, size))
        return shapes

    def update_flops(self, param: TrainedParam) -> int:
        """Return the FLOPs of three turns, of the preconditioner, and of the share of a new basis."""
        if self.settings(param)["adamw"]:
            return 0
        size, num_matrices = math.prod(param.shape), math.prod(param.shape[:-2])
        sides = [n for _, n in self._sides(param.shape)]
        # Three turns and a product a side; a power iteration and QR, which is about as much, now and then.
        return sum(8 * size * n + num_matrices * 4 * n**3 // self.every for n in sides)

    def _sides(self, shape: tuple[int, ...]) -> list[tuple[str, int]]:
        return [(side, size) for side, size in zip(SIDES, shape[-2:], strict=True) if size <= self.max_dim]


class _SOAP(BesideAdamW):
    progress = ("num_updates",)

    def begin(self, group: dict[str, Any]) -> None:
        group["num_updates"] += 1

    def update(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            self._init(state, gradient, group)
        step = group["num_updates"] - 1
        if step == 0:
            return
        self._move(parameter, gradient, group, step)
        _observe(state, gradient, group["betas"][1])
        if step % group["every"] == 0:
            for number, side in enumerate(SIDES):
                if side in state:
                    _turn_basis(state, side, number - 2)

    def _init(self, state: dict[str, Tensor], gradient: Tensor, group: Mapping[str, Any]) -> None:
        state |= {"exp_avg": torch.zeros_like(gradient), "exp_avg_sq": torch.zeros_like(gradient)}
        for side, size in zip(SIDES, gradient.shape[-2:], strict=True):
            if size <= group["max_dim"]:
                state[side] = gradient.new_zeros(*gradient.shape[:-2], size, size)
        _observe(state, gradient, group["betas"][1])
        for side in SIDES:
            if side in state:
                # In float64: of few ranks, as the products of one gradient are, float32 may not converge. From the
                # largest eigenvalue to the smallest, as later bases are sorted.
                vectors = torch.linalg.eigh(state[side].double()).eigenvectors.flip(-1)
                state[f"{side}_basis"] = vectors.to(gradient.dtype).contiguous()

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: Mapping[str, Any], step: int) -> None:
        state = self.state[parameter]
        (beta1, beta2), lr = group["betas"], group["lr"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(_rotate(gradient, state).square(), 1 - beta2)
        size = state["exp_avg_sq"].sqrt().add_(group["eps"])
        update = _rotate(_rotate(state["exp_avg"], state).div_(size), state, back=True)
        parameter.add_(update, alpha=-lr * math.sqrt(1 - beta2**step) / (1 - beta1**step))
        parameter.mul_(1 - lr * group["weight_decay"])


def _observe(state: Mapping[str, Tensor], gradient: Tensor, beta: float) -> None:
    """Update the means of the products of rows and of columns."""
    if "left" in state:
        state["left"].lerp_(gradient @ gradient.mT, 1 - beta)
    if "right" in state:
        state["right"].lerp_(gradient.mT @ gradient, 1 - beta)


def _rotate(x: Tensor, state: Mapping[str, Tensor], back: bool = False) -> Tensor:
    """Return matrices in the bases of both sides, or back in their own."""
    left, right = (state.get(f"{side}_basis") for side in SIDES)
    x = x if left is None else (left if back else left.mT) @ x
    x = x if right is None else x @ (right.mT if back else right)
    return x.clone() if left is None and right is None else x


def _turn_basis(state: dict[str, Tensor], side: str, axis: int) -> None:
    """Replace a basis by one step of power iteration, and sort it and the second moment by the eigenvalues."""
    product = state[side] @ state[f"{side}_basis"]
    order = (state[f"{side}_basis"] * product).sum(-2).argsort(dim=-1, descending=True)
    shape = product.shape
    product = product.gather(-1, order.unsqueeze(-2).expand(shape))
    state[f"{side}_basis"] = torch.linalg.qr(product)[0].contiguous()
    squares = state["exp_avg_sq"]
    index = order.unsqueeze(-1) if axis == -2 else order.unsqueeze(-2)
    state["exp_avg_sq"] = squares.gather(axis, index.expand(squares.shape))
