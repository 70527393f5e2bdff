"""An experiment or a trained model as it is set beside others: structure, costs, learning curve, evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from archlab.config.experiment import Experiment, load
from archlab.errors import ArchlabError
from archlab.inference.suite import SuiteResult
from archlab.modeling.cost import estimate_cost
from archlab.reporting.kept_evaluations import read_evaluations
from archlab.searching.study.claims import trial_dir
from archlab.storage.find_model import experiment_file, owner_of
from archlab.storage.identity import identity_in
from archlab.storage.provenance import provenance_of
from archlab.storage.run_identity import is_run, read_run_identity, require_unedited
from archlab.training import metrics

_NOT_MEASURED = ("step", "tokens", "lr", "data_wait_s")


@dataclass(frozen=True)
class ComparedModel:
    """One of the models that are compared; fields of runs only are empty for others.

    `costs` are those that `archlab show` counts, `metrics` the last ones that its run logged, `curve` its validation
    loss by tokens, `data` the description of its training data (`Task.describe`).
    """

    name: str
    experiment: Experiment
    costs: Mapping[str, int]
    tokens: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    evaluations: Mapping[str, SuiteResult] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the compared values as JSON data, with the resolved experiment."""
        return {
            "name": self.name,
            "experiment": self.experiment.resolved,
            "costs": dict(self.costs),
            "tokens": self.tokens,
            "metrics": dict(self.metrics),
            "curve": [list(point) for point in self.curve],
            "data": dict(self.data),
            "evaluations": {suite: result.to_dict() for suite, result in self.evaluations.items()},
        }


def read_models(named: Sequence[str]) -> list[ComparedModel]:
    """Return the models of experiments (by name or YAML file) and of directories that archlab wrote."""
    twice = {name for name in named if named.count(name) > 1}
    if twice:
        raise ArchlabError(f"{min(twice)}: is named twice")
    return [
        _of_folder(label, Path(name)) if Path(name).is_dir() else _of_experiment(label, load(name))
        for name, label in zip(named, _labels(named), strict=True)
    ]


def _labels(named: Sequence[str]) -> list[str]:
    """Return short names; where the last parts of paths are alike, the parts between those that all share."""
    paths = [Path(name).resolve() if Path(name).is_dir() else Path(name).with_suffix("") for name in named]
    if len({path.name for path in paths}) == len(paths):
        return [path.name for path in paths]
    first = min(len(path.parts) for path in paths)
    above = next((n for n in range(first) if len({path.parts[n] for path in paths}) > 1), first - 1)
    below = next((n for n in range(first - above) if len({path.parts[-1 - n] for path in paths}) > 1), 0)
    return ["/".join(path.parts[above : len(path.parts) - below]) for path in paths]


def _of_experiment(label: str, experiment: Experiment) -> ComparedModel:
    return ComparedModel(label, experiment, estimate_cost(experiment).to_dict())


def _of_folder(label: str, folder: Path) -> ComparedModel:
    run = _run_of(folder)
    if run is not None:
        require_unedited(run)
        return _of_run(label, run)
    file = experiment_file(folder)
    if file is None:
        raise ArchlabError(f"{folder}: holds neither a run nor another model of archlab's")
    experiment, found = load(file, recorded=True), provenance_of(file.parent)
    measured = found.get("metrics", {})  # of a trial: its last ones, beside costs
    costs = estimate_cost(experiment).to_dict()
    return ComparedModel(
        label,
        experiment,
        costs,
        tokens=int(found.get("step", 0)) * experiment.train.tokens_per_step,
        metrics={name: value for name, value in measured.items() if name not in (*costs, *_NOT_MEASURED)},
        data=found.get("data", {}),
    )


def _of_run(label: str, run: Path) -> ComparedModel:
    experiment, records = load(run / "experiment.yaml", recorded=True), metrics.read(run)
    last = {name: value for record in records for name, value in record.items() if value is not None}
    per_step = experiment.train.tokens_per_step
    return ComparedModel(
        label,
        experiment,
        estimate_cost(experiment).to_dict(),
        tokens=int(last.get("step", 0)) * per_step,
        metrics={name: value for name, value in last.items() if name not in _NOT_MEASURED},
        curve=[(int(r["step"]) * per_step, r["val_loss"]) for r in records if r.get("val_loss") is not None],
        data=provenance_of(run / "final").get("data", {}),
        evaluations=read_evaluations(run),
    )


def _run_of(folder: Path) -> Path | None:
    """Return the run that trained a directory's model: for a search and its best/, that of the best trial."""
    owner, file = owner_of(folder), experiment_file(folder)
    if is_run(owner) or file is None:
        return owner if is_run(owner) else None
    found = provenance_of(file.parent)
    if not isinstance(found.get("trial"), int):
        return None
    run = trial_dir(file.parent.parent, found["trial"])
    is_own = is_run(run) and read_run_identity(run).get("run") == identity_in(found, file).get("run")
    return run if is_own else None
