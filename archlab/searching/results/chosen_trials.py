"""Trials of a search that are chosen for export: one by its number, the best few, or the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from archlab.errors import ArchlabError
from archlab.searching.results.best_trial import by_first_objective
from archlab.searching.space.load_space import load_space
from archlab.searching.study.claims import trial_dir
from archlab.searching.study.search_dir import SPACE
from archlab.searching.study.study import open_study
from archlab.searching.study.trial_attrs import trial_attrs


@dataclass(frozen=True)
class ChosenTrial:
    """A trial: its number, the directory of its run, and the text about it in its model card."""

    number: int
    folder: Path
    origin: dict[str, Any]


def choose_trials(
    folder: Path, *, trial: int | None = None, top: int | None = None, pareto: bool = False
) -> list[ChosenTrial]:
    """Return the trial of a number, the `top` best by the first objective, or those of the Pareto front, best first.

    Raises ArchlabError for a directory that is not a search, and a number that it does not have.
    """
    if not (folder / SPACE).is_file():
        raise ArchlabError(f"{folder}: is not a search; --trial, --top and --pareto choose among the trials of one")
    space = load_space(folder / SPACE, recorded=True)
    if space.is_ladder:
        raise ArchlabError(f"{folder}: is a ladder; name one of its runs below {folder / 'rungs'}")
    study = open_study(space, folder, create=False)
    every = study.get_trials(deepcopy=False)
    if trial is not None:
        found = [each for each in every if each.number == trial]
        if not found:
            raise ArchlabError(f"{folder}: has no trial {trial}; it has {_range(every)}")
        return [_chosen_trial(each, folder) for each in found]
    of_front = {each.number for each in study.best_trials}
    done = [each for each in every if each.state == TrialState.COMPLETE and (not pareto or each.number in of_front)]
    ranked = sorted(done, key=by_first_objective(study))
    if not ranked:
        raise ArchlabError(f"{folder}: no trial is complete")
    return [_chosen_trial(each, folder) for each in ranked[: top if top is not None else len(ranked)]]


def _range(trials: Sequence[FrozenTrial]) -> str:
    return f"0 to {len(trials) - 1}" if trials else "none"


def _chosen_trial(trial: FrozenTrial, folder: Path) -> ChosenTrial:
    attrs, place = trial_attrs(trial), trial_dir(folder, trial.number)
    if not any(place.glob("final/*.safetensors")) and not any(place.glob("checkpoints/step_*")):
        advice = f"study.keep says how many of the best keep theirs; the best model is {folder / 'best'}"
        raise ArchlabError(f"{folder}: trial {trial.number} holds no weights; {advice}")
    every: Mapping[str, Any] = attrs
    kept = {name: every[name] for name in ("values", "metrics") if name in every}
    ids = {"trial_id": attrs["id"]} if "id" in attrs else {}
    origin: dict[str, Any] = {"search": folder.resolve().name, "trial": trial.number, **kept, **ids}
    return ChosenTrial(trial.number, place, origin)
