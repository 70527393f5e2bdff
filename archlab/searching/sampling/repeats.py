"""Candidates that a comparison tries again: with another random seed, as the same one would show nothing new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.trial import Trial

from archlab.config.experiment import UnresolvedExperiment
from archlab.searching.study.trial_attrs import set_trial_attrs, trial_attrs

_SEED = "train.seed"


def with_own_seed(
    study: Study, trial: Trial, raw: UnresolvedExperiment, values: Mapping[str, Any], runs: int
) -> UnresolvedExperiment:
    """Return a candidate with random seeds that no earlier trial with the same values has, `runs` each."""
    if _SEED in values:
        return raw
    attrs = trial.user_attrs
    repeat = attrs["repeat"] if "repeat" in attrs else _count_earlier(study, trial, values)
    set_trial_attrs(study, trial, {"repeat": repeat})
    seed = raw.resolve().train.seed
    return raw.override({_SEED: seed + repeat * runs}, "compare") if repeat else raw


def _count_earlier(study: Study, trial: Trial, values: Mapping[str, Any]) -> int:
    own = json.dumps(values, sort_keys=True)
    earlier = (trial_attrs(other) for other in study.get_trials(deepcopy=False) if other.number < trial.number)
    return sum(
        json.dumps(attrs.get("values"), sort_keys=True) == own
        for attrs in earlier
        if not attrs.get("interrupted", False)
    )
