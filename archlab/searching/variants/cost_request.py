"""Costs that a search asks for before it trains: of an experiment by itself, or planned for devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from archlab.config.experiment import UnresolvedExperiment
from archlab.config.registry import component_of
from archlab.modeling.build import build_on_meta, count_parameters
from archlab.modeling.cost import estimate_cost
from archlab.modeling.step_trace import ENDS
from archlab.planning.device import Device
from archlab.planning.plan import plan

Costs: TypeAlias = Mapping[str, float]
PARAMETER_COUNTS = ("params", "params_non_embedding")


@dataclass(frozen=True)
class CostRequest:
    """An experiment whose costs are asked for: planned for `devices` of a `device` if there is one.

    `parameters_only` asks for the numbers of parameters, which take no trace of a training step.
    """

    experiment: UnresolvedExperiment
    device: Device | None = None
    devices: int | None = None
    parameters_only: bool = False


# In this process, or in another one, where a component that crashes takes nothing else down.
CountCosts: TypeAlias = Callable[[CostRequest], Costs]


def count_costs(request: CostRequest) -> Costs:
    """Count costs in this process; raise ConfigError if the experiment has no model."""
    experiment = request.experiment.resolve()
    if request.parameters_only:
        model = build_on_meta(experiment.model)
        ends = [m for m in model.modules() if (c := component_of(type(m))) is not None and c.kind in ENDS]
        in_ends = {id(p): p.numel() for end in ends for p in end.parameters()}
        total = count_parameters(model)
        return dict(zip(PARAMETER_COUNTS, (total, total - sum(in_ends.values())), strict=True))
    if request.device is None:
        return estimate_cost(experiment).to_dict()
    figures = plan(experiment, device=request.device, devices=request.devices).to_dict()
    return {
        name: value for name, value in figures.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
