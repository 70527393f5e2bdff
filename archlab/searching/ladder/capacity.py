"""Whether this machine can hold a rung, and how long it would take."""

from __future__ import annotations

import torch

from archlab.modeling.cost import estimate_cost
from archlab.runtime.memory import available_memory, format_bytes
from archlab.searching.ladder.config import Rung
from archlab.searching.ladder.plan_rungs import RungPlan


def refusal(rung: Rung, plan: RungPlan) -> str:
    """Return why a rung cannot be trained on this machine, with figures, or nothing."""
    if rung.elsewhere:
        return f"rung {rung.number} is to be trained elsewhere"
    needed = {name: estimate_cost(e.experiment).memory_per_device for name, e in plan.entrants.items()}
    largest = max(needed, key=needed.__getitem__)
    have = available_memory(torch.device("cpu"))
    if needed[largest] <= have:
        return ""
    needs = f"{largest} needs {format_bytes(needed[largest])}, and {format_bytes(have)} are free"
    return f"rung {rung.number} does not fit this machine: {needs}"
