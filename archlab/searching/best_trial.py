"""The best trial of a search: published as best/, and compared with the baseline and general compressors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from archlab.data.task import Task
from archlab.inference.compression_baseline import compressed_bpb
from archlab.inference.evaluate import eval_options, evaluate
from archlab.runtime.environment import hardware_info, versions
from archlab.searching.baseline import BaselineResult
from archlab.searching.space import Space
from archlab.searching.study import delete_weights, finished_trials, trial_dir
from archlab.searching.summary import BaselineSummary, SearchSummary, TrialSummary
from archlab.searching.trial_attrs import trial_attrs
from archlab.storage import checkpoint
from archlab.storage.locks import lock
from archlab.storage.trained_model import load_trained


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the best trial by the first objective, the earlier one of a tie, or None until a trial is complete."""
    front = study.best_trials
    if not front:
        return None
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(front, key=lambda trial: (sign * trial.values[0], trial.number))


def publish_best(study: optuna.Study, space: Space, folder: Path) -> FrozenTrial | None:
    """Publish the best trial as best/ unless it is already, then delete the weights of the other finished trials."""
    with lock(folder / ".best.lock", wait=True):
        # Read before the best is chosen: a better trial that ends in between must not lose its weights below.
        done = finished_trials(study)
        best = best_trial(study)
        if best is not None and _published_trial(folder) != best.number:
            _publish(best, space, folder)
        for trial in done:
            if best is None or trial.number != best.number:
                delete_weights(trial_dir(folder, trial.number))
    return best


def _published_trial(folder: Path) -> int | None:
    file = folder / "best" / "provenance.json"
    return json.loads(file.read_text(encoding="utf-8"))["trial"] if file.is_file() else None


def _publish(best: FrozenTrial, space: Space, folder: Path) -> None:
    trained = trial_dir(folder, best.number) / "final"
    experiment, model = load_trained(trained)
    attrs = trial_attrs(best)
    origin = {"search": space.name, "trial": best.number, "values": attrs["values"], "metrics": attrs["metrics"]}
    provenance = json.loads((trained / "provenance.json").read_text(encoding="utf-8"))
    checkpoint.save_model(folder / "best", model, experiment.resolved, provenance | origin)


def summarize(study: optuna.Study, space: Space, folder: Path, baseline: BaselineResult) -> SearchSummary:
    """Evaluate the best trial and the baseline on the whole validation split, and write summary.json."""
    base = space.base.resolve()
    train = base.train
    task: Task = base.task.factory()()
    text = task.text("validation")
    summary = SearchSummary(
        search=space.name,
        objectives=dict(space.objectives),
        trials=dict(Counter(trial.state.name.lower() for trial in finished_trials(study))),
        best_trial=_summarize_best(study, folder),
        baseline=BaselineSummary(baseline.metrics, baseline.reason, _evaluate(folder / "baseline")),
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


def _summarize_best(study: optuna.Study, folder: Path) -> TrialSummary | None:
    best = best_trial(study)
    if best is None:
        return None
    attrs = trial_attrs(best)
    return TrialSummary(best.number, attrs["values"], attrs["metrics"], _evaluate(folder / "best"))


def _evaluate(folder: Path) -> dict[str, float]:
    """Return a trained model's metrics on the whole validation split, or nothing if there is no trained model."""
    if not (folder / "model.safetensors").is_file() and not (folder / "final").is_dir():
        return {}
    experiment, model = load_trained(folder)
    train, task = experiment.train, experiment.task.factory()()
    return evaluate(model.to(train.device), task, "validation", **eval_options(train)).to_dict()
