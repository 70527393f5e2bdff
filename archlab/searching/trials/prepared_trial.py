"""A trial before its training: its values in the base experiment, its costs, and whether they are allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.trial import Trial

from archlab.searching.failures import InfeasibleTrial
from archlab.searching.sampling.repeats import with_own_seed
from archlab.searching.sampling.trial_values import TrialValues
from archlab.searching.space.constraints import problems_of
from archlab.searching.space.dominance import DominanceConfig
from archlab.searching.space.inner import inner_values
from archlab.searching.space.search_space import Space
from archlab.searching.space.study_config import DOMINATED
from archlab.searching.study.claims import trial_dir
from archlab.searching.study.dominance_judge import DominanceJudge
from archlab.searching.study.promotion import PromotionJudge
from archlab.searching.study.study import SearchStudy
from archlab.searching.study.trial_attrs import set_trial_attrs
from archlab.searching.trials.callbacks import Judge
from archlab.searching.trials.trial_job import TrialJob, make_job
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.cost_request import Costs, CountCosts
from archlab.searching.variants.planned import TrialCosts


@dataclass(frozen=True)
class PreparedTrial:
    """The job of a trial, its own costs, and these with the objectives that are planned."""

    job: TrialJob
    costs: Costs
    planned: dict[str, float]


def prepare_trial(
    study: SearchStudy,
    space: Space,
    trial: Trial,
    chosen: TrialValues,
    folder: Path,
    search: str,
    count: CountCosts,
) -> PreparedTrial:
    """Return a trial that is ready to be trained in a search's directory; raise InfeasibleTrial for one that is not."""
    if chosen.problem:
        raise InfeasibleTrial(chosen.problem)
    label, values = f"trial {trial.number}", chosen.values
    raw = apply_values(space.varied, values, space.base, label)
    if space.compare:
        raw = with_own_seed(study, trial, raw, values, space.study.runs_per_trial)
    settings = inner_values(space.inner, raw, space.study.seed)
    costs = TrialCosts(raw.override(settings[0], "inner"), values, space.varied, count)
    set_trial_attrs(study, trial, {"costs": dict(costs.own)})
    require_feasible(space, trial, costs)
    planned = plan_objectives(space, costs)
    if space.planned:
        set_trial_attrs(study, trial, {"costs": planned})
    job = make_job(space, label, trial_dir(folder, trial.number), raw, search)
    return PreparedTrial(replace(job, settings=settings, values=values), costs.own, planned)


def plan_objectives(space: Space, costs: TrialCosts) -> dict[str, float]:
    """Return a trial's own costs, and the objectives that are planned."""
    planned = {name: costs.at(objective.place)[objective.metric] for name, objective in space.planned.items()}
    return {**costs.own, **planned}


def require_feasible(space: Space, trial: Trial, costs: TrialCosts) -> None:
    """Report a trial's violation of each constraint to the sampler; raise InfeasibleTrial if it violates one."""
    for constraint in space.constraints:
        trial.set_constraint(constraint.name, constraint.violation(costs.at(constraint.place)))
    if problems := problems_of(space.constraints, costs):
        raise InfeasibleTrial(problems)


def judge_of(study: SearchStudy, space: Space, trial: Trial, costs: Mapping[str, float]) -> Judge | None:
    """Return the judge of whether a trial is pruned, if any."""
    pruner = space.study.pruner
    if pruner and pruner.type == DOMINATED:
        config = DominanceConfig.parse(pruner.options, "study.pruner")
        return DominanceJudge(study, trial, config, space.objectives, costs)
    if space.promotion is not None:
        return PromotionJudge(study, trial, space.rungs, space.promotion.reduction_factor, space.sign)
    return trial if space.can_prune else None
