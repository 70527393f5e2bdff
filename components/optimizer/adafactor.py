from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch

from archlab import AdamSettings, Positive, Range, TrainedParam, UpdateRule, choice, register


@register("optimizer", "adafactor", search={"decay_power": choice(-0.8, -0.5)})
class Adafactor(UpdateRule):
    """Steps in proportion to the parameters, by row and column means of squares (arXiv:1804.04235), torch's own.

    `train.lr` is a share of the root mean square of each parameter, and at most 1 / sqrt(t) in step t: 1e-2 and more
    are usual. Keeps no tensor of a matrix's size. The betas and eps of `train:` are those of Adam, and not used.

    Args:
        decay_power: Power of the step's number that is the weight of a step in the means of squares.
        clip_threshold: Root mean square of an update, before the learning rate, above which it is scaled down.
        smallest_scale: The least that the root mean square of a parameter counts as.
    """

    divided_by = ()
    parametrizations = ("standard",)

    def __init__(
        self,
        adam: AdamSettings,
        *,
        decay_power: Annotated[float, Range(low=-2, high=0)] = -0.8,
        clip_threshold: Annotated[float, Range(low=1, high=1e30)] = 1.0,
        smallest_scale: Positive = 1e-3,
    ) -> None:
        self.own: dict[str, Any] = {
            "beta2_decay": decay_power,
            "d": clip_threshold,
            "eps": (None, smallest_scale),
        }

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's."""
        return torch.optim.Adafactor(groups, **self.own)

    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        """Return the means of rows and of columns, or of each number of a vector, and the count of steps."""
        if len(param.shape) < 2:
            return {"step": (), "variance": param.shape}
        *others, rows, columns = param.shape
        return {"step": (), "row_var": (*others, rows, 1), "col_var": (*others, 1, columns)}
