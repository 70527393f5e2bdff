"""The best trial of a search: published as best/, and compared with the baseline and general compressors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeAlias

import optuna
from optuna.trial import FrozenTrial

from archlab.config.experiment import load
from archlab.data.task import Task
from archlab.errors import ArchlabError
from archlab.inference.compression_baseline import compressed_bpb
from archlab.inference.evaluate import eval_options, evaluate
from archlab.runtime.environment import hardware_info, versions
from archlab.searching.results.baseline import BaselineResult
from archlab.searching.results.choices import choice_results
from archlab.searching.results.keep import kept_trials, superseded_trials
from archlab.searching.results.meter import search_spent
from archlab.searching.results.summary import BaselineSummary, SearchSummary, TrialSummary
from archlab.searching.space.search_space import Space
from archlab.searching.study.claims import require_own_dir, trial_dir
from archlab.searching.study.identity import SearchIdentity, data_difference, require_same_search
from archlab.searching.study.study import delete_weights, finished_trials
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.storage import checkpoint
from archlab.storage.locks import lock
from archlab.storage.model_tokens import read_tokens
from archlab.storage.provenance import read_provenance
from archlab.storage.trained_model import load_trained

FinalProgress: TypeAlias = Callable[[str, int, int | None], None]
_LOCK, _PROVENANCE = ".best.lock", "provenance.json"


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the best trial by the first objective, the earlier one of a tie, or None until a trial is complete."""
    return _best_of(study.best_trials, study)


def _best_of(front: Sequence[FrozenTrial], study: optuna.Study) -> FrozenTrial | None:
    return min(front, key=by_first_objective(study), default=None)


def by_first_objective(study: optuna.Study) -> Callable[[FrozenTrial], tuple[float, int]]:
    """Return the key that orders complete trials, the best by the first objective first."""
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return lambda trial: (sign * trial.values[0], trial.number)


def publish_best(
    study: optuna.Study, space: Space, folder: Path, identity: SearchIdentity | None = None
) -> FrozenTrial | None:
    """Publish the best trial as best/ unless it is already, then delete the weights that `study.keep` does not keep.

    Raises ArchlabError if best/ or the trial's directory belongs to another search.
    """
    with lock(folder / _LOCK, wait=True):
        return _publish_best(study, space, folder, identity)


def _publish_best(
    study: optuna.Study, space: Space, folder: Path, identity: SearchIdentity | None
) -> FrozenTrial | None:
    # Read before the best is chosen: a better trial that ends in between must not lose its weights below.
    done = finished_trials(study)
    front = study.best_trials  # once: each time it copies the whole study
    best = _best_of(front, study)
    if best is not None and not _is_published(best, folder, identity):
        _publish(best, space, folder, identity)
    kept = kept_trials(study, done, front, space.study.keep) | ({best.number} if best else set())
    for number in {trial.number for trial in done} - kept | superseded_trials(study, done):
        delete_weights(trial_dir(folder, number))
    return best


def _is_published(best: FrozenTrial, folder: Path, identity: SearchIdentity | None) -> bool:
    place = folder / "best"
    if not (place / _PROVENANCE).is_file():
        return False
    origin = read_provenance(place / _PROVENANCE)
    require_same_search(str(origin.get("search_id", "")), identity, place)
    if origin.get("trial") != best.number:
        return False
    attrs = trial_attrs(best)
    own = {name: attrs.get(name) for name in ("values", "metrics")} | {"trial_id": attrs.get("id")}
    # A value is missing where an earlier version published the trial.
    if difference := data_difference({name: origin.get(name) for name in own}, own):
        raise ArchlabError(f"{place}: is of another trial {best.number} than the study's: {difference}; move it away")
    return True


def _publish(best: FrozenTrial, space: Space, folder: Path, identity: SearchIdentity | None) -> None:
    require_own_dir(folder, best)
    trained = trial_dir(folder, best.number) / "final"
    _, model = load_trained(trained)
    # As it was written: the task of the one that is loaded reads files of the trial.
    experiment = load(trained / "experiment.yaml", recorded=True)
    attrs = trial_attrs(best)
    origin = {"search": space.name, "trial": best.number, "values": attrs["values"], "metrics": attrs["metrics"]}
    ids = {"search_id": identity.search if identity else "", "trial_id": attrs.get("id", "")}
    provenance = read_provenance(trained / _PROVENANCE) | origin | ids
    checkpoint.save_model(folder / "best", model, experiment.resolved, provenance, read_tokens(trained))


def summarize(
    study: optuna.Study,
    space: Space,
    folder: Path,
    identity: SearchIdentity,
    baseline: BaselineResult,
    progress: FinalProgress | None = None,
) -> tuple[FrozenTrial | None, SearchSummary]:
    """Publish the best trial, evaluate it and the baseline on the whole validation split, and write summary.json.

    `progress` is called with the model's label, its targets so far, and those in all if the task can tell.
    """
    # Under one lock, in which the study is read: the last worker to write has seen the trials of all others.
    with lock(folder / _LOCK, wait=True):
        best = _publish_best(study, space, folder, identity)
        summary = _summary(study, space, folder, best, baseline, identity, progress)
        summary.write(folder)
    return best, summary


def _summary(
    study: optuna.Study,
    space: Space,
    folder: Path,
    best: FrozenTrial | None,
    baseline: BaselineResult,
    identity: SearchIdentity,
    progress: FinalProgress | None,
) -> SearchSummary:
    base = space.base.resolve()
    # The baseline's own record: a budget was resolved to steps there.
    recorded = folder / "baseline" / "experiment.yaml"
    train = load(recorded, recorded=True).train if recorded.is_file() else base.train
    task: Task = base.task.factory()()
    text = task.text("validation")
    return SearchSummary(
        search=space.name,
        objectives=dict(space.objectives),
        trials=dict(Counter(trial.state.name.lower() for trial in finished_trials(study))),
        best_trial=_summarize_best(best, folder, space, progress),
        baseline=BaselineSummary(
            baseline.metrics, baseline.reason, _evaluate(folder / "baseline", "baseline", space, progress)
        ),
        pareto=[trial.number for trial in study.best_trials] if len(space.objectives) > 1 else [],
        compressors=compressed_bpb(text) if text else {},
        validation_bytes=len(text),
        tokens_per_trial=train.steps * train.tokens_per_step,
        corpus=task.describe(),
        machine=hardware_info(),
        versions=versions(),
        search_id=identity.search,
        choices=[asdict(result) for result in choice_results(space, study.get_trials(deepcopy=False))],
        spent=search_spent(study, folder),
    )


def _summarize_best(
    best: FrozenTrial | None, folder: Path, space: Space, progress: FinalProgress | None
) -> TrialSummary | None:
    if best is None:
        return None
    attrs = trial_attrs(best)
    validation = _evaluate(folder / "best", f"trial {best.number}", space, progress)
    return TrialSummary(best.number, attrs["values"] | attrs.get("tuned", {}), attrs["metrics"], validation)


def _evaluate(folder: Path, label: str, space: Space, progress: FinalProgress | None) -> dict[str, float]:
    """Return a trained model's metrics on the whole validation split, or nothing if there is no trained model.

    Nothing either where there are several tasks: the model is that of one, and its metrics would be taken for means.
    """
    if space.tasks or not ((folder / "model.safetensors").is_file() or (folder / "final").is_dir()):
        return {}
    experiment, model = load_trained(folder)
    train, task = experiment.train, experiment.task.factory()()
    report = partial(progress, label) if progress else None
    return evaluate(model.to(train.device), task, "validation", progress=report, **eval_options(train)).to_dict()
