"""The YAML that a ladder writes: candidates at the target's size, and the runs of a rung for another machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from archlab.config.experiment import Experiment, load
from archlab.modeling.build import validate
from archlab.searching.ladder.candidates import at_target, built_at
from archlab.searching.ladder.config import Candidate, Ladder, Rung
from archlab.searching.ladder.runs import LadderRun
from archlab.searching.ladder.sizes import size_of
from archlab.storage.files import write_text

DIRECTORY = "launch"


def write_launch(ladder: Ladder, candidates: Sequence[Candidate], folder: Path) -> dict[str, Experiment]:
    """Write launch/CANDIDATE.yaml, the experiment of each candidate at the target's size; return the experiments."""
    assert ladder.target is not None
    found: dict[str, Experiment] = {}
    for candidate in candidates:
        with built_at(ladder, candidate, "to"):
            experiment = at_target(ladder, ladder.target, candidate)
            validate(experiment)
        _write(folder / DIRECTORY / f"{candidate.name}.yaml", experiment)
        found[candidate.name] = experiment
    return found


def launched_params(experiments: Mapping[str, Experiment]) -> dict[str, float]:
    """Return the parameters of experiments, embeddings left out."""
    return {name: float(size_of(experiment)) for name, experiment in experiments.items()}


def write_rung(folder: Path, rung: Rung, runs: Iterable[LadderRun]) -> None:
    """Write launch/rung_N/CANDIDATE_seed_S.yaml of runs that this machine cannot hold.

    The results come back as the run's directory, with or without its checkpoints, at the place that its `description`
    names.
    """
    for run in runs:
        tree = run.experiment.resolved
        name = f"{run.candidate}_{run.folder.name}"
        if run.trunk is not None:  # from where `archlab train` writes the trunk by default
            start = tree["train"]["start_from"] | {"checkpoint": f"runs/{run.candidate}_{run.trunk.name}"}
            tree["train"] |= {"start_from": start}
        tree |= {"name": name, "description": f"its run belongs into {run.folder.relative_to(folder)}"}
        _write(folder / DIRECTORY / f"rung_{rung.number}" / f"{name}.yaml", load(tree))


def _write(file: Path, experiment: Experiment) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, experiment.to_yaml())
