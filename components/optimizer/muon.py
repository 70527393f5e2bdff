from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from archlab import AdamSettings, Beta, Range, TrainedParam, UpdateRule, choice, register

from ._adamw import BesideAdamW, adam_shapes
from ._elementwise import local
from ._whole import gather, part_of

# Of the quintic iteration, which has the steepest slope at 0 with these.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7


@register(
    "optimizer", "muon", search={"momentum": choice(0.9, 0.95), "adjust_lr_fn": choice("original", "match_rms_adamw")}
)
class Muon(UpdateRule):
    """Momentum whose matrices are made orthogonal (kellerjordan.github.io/posts/muon, arXiv:2502.16982), as torch's.

    Parameters of the role `hidden` are updated so, as long as their last two axes are those of a matrix; embeddings,
    heads, norms and all else by AdamW, with the betas and eps of `train:`. Keeps one moment of a matrix.

    Args:
        momentum: Decay of the momentum.
        nesterov: Whether the update looks a step of the momentum ahead.
        ns_steps: Steps of Newton and Schulz towards an orthogonal matrix.
        adjust_lr_fn: `match_rms_adamw`: updates are as large as AdamW's, whose learning rate and decay hold for both;
            `original`: the learning rate is multiplied by sqrt(max(1, outputs / inputs)).

    Deviations:
        Of a tensor of several matrices, such as the experts of a mixture, each is made orthogonal. Ranks that divide a
        matrix gather its update and each compute all of it.
    """

    divided_by = ("shard",)
    parametrizations = ("standard",)
    product_dtype = torch.bfloat16

    def __init__(
        self,
        adam: AdamSettings,
        *,
        momentum: Beta = 0.95,
        nesterov: bool = True,
        ns_steps: Annotated[int, Range(low=1, high=99)] = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = "match_rms_adamw",
    ) -> None:
        self.adam = adam
        self.own = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn}

    def settings(self, param: TrainedParam) -> Mapping[str, object]:
        """Return the axis of a matrix's outputs, or that a parameter is AdamW's."""
        declared, dims = param.declared.param, len(param.shape)
        if declared.role != "hidden" or dims < 2:
            return {"adamw": True}
        fan_out, fan_in = (axis % dims - dims for axis in (declared.fan_out, declared.fan_in))
        return {"adamw": False, "fan_out": fan_out} if {fan_out, fan_in} == {-1, -2} else {"adamw": True}

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of both kinds of group."""
        return _Muon([group if group["adamw"] else {**self.own, **group} for group in groups], self.adam)

    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        """Return the momentum of a matrix, and the moments of any other parameter."""
        return adam_shapes(param) if self.settings(param)["adamw"] else {"momentum_buffer": param.shape}

    def update_flops(self, param: TrainedParam) -> int:
        """Return the FLOPs of three matrix products in each step of Newton and Schulz."""
        if self.settings(param)["adamw"]:
            return 0
        short, long = sorted(param.shape[-2:])
        of_step = 2 * short * short * (2 * long + short)
        return math.prod(param.shape[:-2]) * int(self.own["ns_steps"]) * of_step


class _Muon(BesideAdamW):
    def update(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        state, gradient = self.state[parameter], local(parameter.grad)  # type: ignore[arg-type]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = local(state["momentum_buffer"])
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = part_of(orthogonalize(gather(update, parameter), group["ns_steps"]), parameter)
        own, lr = local(parameter.detach()), group["lr"]
        own.mul_(1 - lr * group["weight_decay"])
        own.add_(update, alpha=-lr * _lr_factor(parameter.shape, group))


def _lr_factor(shape: torch.Size, group: Mapping[str, Any]) -> float:
    num_outputs, num_inputs = shape[group["fan_out"]], shape[-3 - group["fan_out"]]
    if group["adjust_lr_fn"] == "original":
        return math.sqrt(max(1, num_outputs / num_inputs))
    return 0.2 * math.sqrt(max(num_outputs, num_inputs))


def orthogonalize(matrix: Tensor, steps: int) -> Tensor:
    """Return matrices [..., M, N] with their singular values near 1, in bfloat16."""
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.bfloat16().flatten(0, -3) if matrix.dim() > 2 else matrix.bfloat16()
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    add = torch.addmm if x.dim() == 2 else torch.baddbmm
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = add(x, add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).reshape(matrix.shape)
