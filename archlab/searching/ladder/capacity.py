"""Whether this machine can train a rung, and its plan if not."""

from __future__ import annotations

import torch

from archlab.planning.plan import Plan, plan
from archlab.runtime.memory import available_memory, format_bytes
from archlab.searching.ladder.config import Rung
from archlab.searching.ladder.plan_rungs import RungPlan

MOST_DAYS = 30.0  # of a rung on one CPU: a longer one is a mistake here, and belongs on other machines


def elsewhere(rung: Rung) -> str:
    """Return that a rung is to be trained elsewhere if it is, or nothing."""
    return f"rung {rung.number} is to be trained elsewhere" if rung.elsewhere else ""


def refusal(runs: RungPlan) -> str:
    """Return why a rung cannot be trained on this machine, with the plan's figures, or nothing."""
    rung = runs.rung
    if rung.elsewhere:
        return elsewhere(rung)
    if torch.cuda.is_available():
        return ""  # a run that does not fit says so itself
    plans = {name: plan(entrant.experiment, device="cpu") for name, entrant in runs.entrants.items()}
    largest = max(plans, key=lambda name: plans[name].memory_per_device)
    needed, have = plans[largest].memory_per_device, available_memory(torch.device("cpu"))
    days = _days(runs, plans)
    figures = f"{largest} needs {format_bytes(needed)} of {format_bytes(have)}, and its runs {days:.3g} days"
    return f"rung {rung.number} does not fit this machine: {figures}" if needed > have or days > MOST_DAYS else ""


def _days(runs: RungPlan, plans: dict[str, Plan]) -> float:
    """Return the days that the runs take one after the other; a branch takes its decay alone."""
    return sum(run.own_steps * plans[run.candidate].seconds_per_update for run in runs.runs) / 86400
