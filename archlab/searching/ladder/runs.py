"""The training runs of a rung: each candidate with each seed, and the decays that branch off its trunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from archlab.config.experiment import Experiment, load, read
from archlab.searching.ladder.config import Ladder, Rung
from archlab.training.wsd import branch_points

EXPERIMENT = "experiment.yaml"
REHEARSED_SEEDS = 2


@dataclass(frozen=True)
class LadderRun:
    """One training run; `part` is the fraction of the rung's tokens, `trunk` the run that a branch starts from."""

    rung: int
    candidate: str
    seed: int
    part: float
    experiment: Experiment
    folder: Path
    trunk: Path | None = None

    @property
    def label(self) -> str:
        """The run in a progress line."""
        branch = "" if self.trunk is None else f" at {self.part:g}"
        return f"rung {self.rung}: {self.candidate} seed {self.seed}{branch}"

    @property
    def tokens(self) -> int:
        """The tokens that the run has been trained on at its end, those of its trunk included."""
        train = self.experiment.train
        return train.steps * train.batch_size * train.accumulate * train.context

    @property
    def own_steps(self) -> int:
        """The steps that the run itself makes: a branch takes its decay alone."""
        train = self.experiment.train
        return train.steps - (train.start_from.step or 0 if train.start_from else 0)


def candidate_dir(folder: Path, rung: int, candidate: str) -> Path:
    """Return the directory of a candidate's runs at a rung."""
    return folder / "rungs" / str(rung) / candidate


def num_seeds(ladder: Ladder, rung: Rung) -> int:
    """Return how often each candidate is trained at a rung."""
    return min(rung.seeds, REHEARSED_SEEDS) if ladder.is_rehearsal else rung.seeds


def plan_runs(ladder: Ladder, rung: Rung, candidate: str, experiment: Experiment, folder: Path) -> list[LadderRun]:
    """Return a candidate's runs at a rung, each trunk before its branches."""
    return [
        run
        for seed in range(num_seeds(ladder, rung))
        for run in _runs_of_seed(ladder, rung, candidate, experiment, folder, seed)
    ]


def _runs_of_seed(
    ladder: Ladder, rung: Rung, candidate: str, experiment: Experiment, folder: Path, seed: int
) -> Iterator[LadderRun]:
    place = candidate_dir(folder, rung.number, candidate)
    trunk = _trunk(ladder, experiment, seed)
    fractions = [part for part in ladder.branches if part < 1]
    if not fractions:
        yield LadderRun(rung.number, candidate, seed, 1.0, trunk, place / f"seed_{seed}")
        return
    home = place / f"seed_{seed}"
    points = branch_points(trunk.train, fractions, home)
    kept = read(trunk.resolved).override({"train.checkpoint_at": list(points.checkpoint_at)}, rung.path).resolve()
    yield LadderRun(rung.number, candidate, seed, 1.0, kept, home)
    for part, branch in zip(fractions, points.branches, strict=True):
        decay = read(trunk.resolved).override(branch.overrides, rung.path).resolve()
        yield LadderRun(rung.number, candidate, seed, part, decay, place / f"seed_{seed}_at_{part:g}", home)


def _trunk(ladder: Ladder, experiment: Experiment, seed: int) -> Experiment:
    """Return the run of the whole length, which branches if the ladder asks for several points of it."""
    tree = experiment.resolved
    train = tree["train"] | {"seed": experiment.train.seed + seed}
    return load(tree | {"train": train | ({"schedule": "wsd"} if len(ladder.branches) > 1 else {})})
