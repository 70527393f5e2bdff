"""The best trial of a search, its weights in best/, and how it stands beside the base and general compressors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from archlab.data.task import Task
from archlab.inference.compression_baseline import compressed_bpb
from archlab.inference.evaluate import eval_options, evaluate
from archlab.runtime.environment import hardware_info, versions
from archlab.searching.space import Space
from archlab.searching.study import delete_weights, finished_trials, trial_dir
from archlab.searching.summary import BaselineSummary, SearchSummary, TrialSummary
from archlab.storage import checkpoint
from archlab.storage.locks import lock
from archlab.storage.trained_model import load_trained


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the best trial by the first objective, or None while none is complete."""
    front = study.best_trials
    if not front:
        return None
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(front, key=lambda trial: (sign * trial.values[0], trial.number))


def publish_best(study: optuna.Study, space: Space, folder: Path) -> FrozenTrial | None:
    """Publish the best trial as best/, then remove the weights of the others; do nothing that is done already."""
    with lock(folder / ".best.lock", wait=True):
        # Read before the best is picked: a better trial that ends meanwhile must not lose its weights below.
        done = finished_trials(study)
        best = best_trial(study)
        if best is not None and _published(folder) != best.number:
            _publish(best, space, folder)
        for trial in done:
            if best is None or trial.number != best.number:
                delete_weights(trial_dir(folder, trial.number))
    return best


def _published(folder: Path) -> int | None:
    file = folder / "best" / "provenance.json"
    return json.loads(file.read_text())["trial"] if file.is_file() else None


def _publish(best: FrozenTrial, space: Space, folder: Path) -> None:
    trained = trial_dir(folder, best.number) / "final"
    experiment, model = load_trained(trained)
    facts = {"search": space.name, "trial": best.number, **_facts(best)}
    origin = json.loads((trained / "provenance.json").read_text())
    checkpoint.save_model(folder / "best", model, experiment.resolved, {**origin, **facts})


def _facts(trial: FrozenTrial) -> dict[str, Any]:
    return {key: trial.user_attrs.get(key, {}) for key in ("values", "metrics")}


def summarize(study: optuna.Study, space: Space, folder: Path, baseline: Mapping[str, Any]) -> SearchSummary:
    """Evaluate the best trial and the baseline on the whole validation split, and write summary.json."""
    best, base = best_trial(study), space.base.resolve()
    task: Task = base.task.factory()()
    text = task.text("validation")
    train = base.train
    summary = SearchSummary(
        search=space.name,
        objectives=dict(space.objectives),
        trials=dict(Counter(trial.state.name.lower() for trial in finished_trials(study))),
        best_trial=TrialSummary(best.number, **_facts(best), validation=_validated(folder / "best")) if best else None,
        baseline=BaselineSummary(**baseline, validation=_validated(folder / "baseline")),
        pareto=[trial.number for trial in study.best_trials] if len(space.objectives) > 1 else [],
        compressors=compressed_bpb(text) if text else {},
        validation_bytes=len(text),
        tokens_per_trial=train.steps * train.batch_size * train.accumulate * train.context,
        corpus=task.describe(),
        machine=hardware_info(),
        versions=versions(),
    )
    summary.write(folder)
    return summary


def _validated(folder: Path) -> dict[str, float]:
    """Return how well a trained model predicts the whole validation split; nothing where there is no model."""
    if not (folder / "model.safetensors").is_file() and not (folder / "final").is_dir():
        return {}
    experiment, model = load_trained(folder)
    train, task = experiment.train, experiment.task.factory()()
    return evaluate(model.to(train.device), task, "validation", **eval_options(train)).to_dict()
