"""Budgets of tokens and FLOPs as numbers of optimizer steps."""

from __future__ import annotations

from dataclasses import replace

from archlab.config.experiment import Experiment
from archlab.errors import ConfigError
from archlab.modeling.cost import Cost, estimate_cost


def resolve_budget(experiment: Experiment, cost: Cost | None = None) -> Experiment:
    """Return an experiment whose budget of tokens or FLOPs is resolved to `train.steps`.

    One of seconds stays, with 0 steps: only a run measures it. `cost` is that of the experiment, if already counted.
    Raises ConfigError for a budget of less than one step, and where warm-up or checkpoints are past the last one.
    """
    train, budget = experiment.train, experiment.train.budget
    if budget is None or budget.kind == "seconds":
        return experiment
    try:
        per_step = train.tokens_per_step
        if budget.kind == "flops":
            per_step *= (cost or estimate_cost(experiment)).flops_per_token
        return replace(experiment, train=train.with_steps(budget.steps(per_step)))
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or experiment.source) from None
