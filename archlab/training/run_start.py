"""The start of a training run, decided by the first process: settings, directory, and checkpoint to resume from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment, load
from archlab.config.train_config import TrainConfig, parse_train
from archlab.errors import ArchlabError
from archlab.storage import checkpoint
from archlab.storage.identity import Identity
from archlab.storage.run_lock import lock_run
from archlab.training.budget import keep_budget, prepare_run
from archlab.training.callbacks import Callback
from archlab.training.run_dir import open_run, require_run_dir
from archlab.training.run_loggers import make_loggers, require_loggers
from archlab.training.run_tokens import keep_run_tokens, use_run_tokens
from archlab.training.start_from import check_start, settings_of_start, with_absolute_start
from archlab.training.trace import Trace


@dataclass
class RunStart:
    """The start of a run: its experiment with every setting resolved, identity, and the checkpoint to continue from."""

    experiment: Experiment
    folder: Path
    resume: bool
    force: bool
    processes: int
    identity: Identity = field(default_factory=dict)
    last: Path | None = None

    def __post_init__(self) -> None:
        """Resolve where the weights come from against the directory that the command was given in."""
        self.experiment = with_absolute_start(self.experiment)

    def begin(self, held: ExitStack) -> dict[str, Any]:
        """Check the experiment, lock the run's directory and open it; return the data that the other processes need."""
        folder, resume, force = self.folder, self.resume, self.force
        # Before open_run, which overwrites an earlier run: an experiment that cannot be trained leaves it alone.
        experiment, budget = self.experiment, self.experiment.train.budget
        require_loggers(experiment.train.loggers or ())
        running = keep_budget(use_run_tokens(experiment, folder), folder) if resume else experiment
        prepared = prepare_run(running, _settings_to_keep(folder, experiment.train, resume), self.processes)
        self.experiment = experiment = replace(prepared, task=experiment.task)
        require_run_dir(experiment, folder, resume, force)
        if not resume or not checkpoint.checkpoints(folder / "checkpoints"):
            check_start(experiment, out=folder)
        held.enter_context(lock_run(folder))
        self.identity = open_run(experiment, folder, resume, force, budget)
        keep_run_tokens(experiment, folder, resume)
        # By the first process alone: all of its files are read, to compare their checksums.
        self.last = checkpoint.latest_checkpoint(folder / "checkpoints") if resume else None
        last = None if self.last is None else str(self.last)
        return {"train": experiment.train.to_plain(), "identity": dict(self.identity), "last": last}

    def loggers(self) -> list[Callback]:
        """Return the loggers that the experiment itself configures."""
        profile, id = self.experiment.train.profile, str(self.identity.get("run", self.folder.resolve().name))
        traces = [Trace(self.folder, profile)] if profile else []
        return [*traces, *make_loggers(self.experiment, self.folder, id)]

    def follow(self, decided: Mapping[str, Any]) -> None:
        """Take over the decisions of the first process; raise ArchlabError if this one does not see the directory."""
        if not (self.folder / "run.json").is_file():
            raise ArchlabError(
                f"{self.folder}: is not the directory that the first process has opened; all need one file system"
            )
        self.experiment = replace(self.experiment, train=parse_train(decided["train"]))
        self.identity, self.last = decided["identity"], decided["last"] and Path(decided["last"])


def _settings_to_keep(folder: Path, train: TrainConfig, resume: bool) -> dict[str, str]:
    """Return each `auto` setting as it was resolved when the run started: resuming is exact only with the same ones.

    A run that continues where another one was keeps that one's.
    """
    file = folder / "experiment.yaml"
    if not resume or not file.is_file():
        return settings_of_start(train)
    earlier = load(file, recorded=True).train
    return {key: getattr(earlier, key) for key in ("device", "precision", "compile") if getattr(train, key) == "auto"}
