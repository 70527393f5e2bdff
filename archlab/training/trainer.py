"""Training: from an experiment to a run directory with metrics, checkpoints and the trained model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment, load
from archlab.config.train_config import TrainConfig
from archlab.errors import TrainingError
from archlab.inference.evaluate import eval_options, evaluate
from archlab.runtime.environment import versions
from archlab.runtime.signals import defer_keyboard_interrupt
from archlab.storage import checkpoint
from archlab.training.callbacks import Callback, CallbackList
from archlab.training.metrics import MetricsLog
from archlab.training.metrics import read as read_metrics
from archlab.training.run_dir import last_metrics, open_run
from archlab.training.step import TrainStep, prepare_experiment


@dataclass(frozen=True)
class TrainResult:
    """The directory of a finished run, and the last value of each of its metrics."""

    folder: Path
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def model_dir(self) -> Path:
        """The directory of the trained model, for `archlab.load_model`."""
        return self.folder / "final"


def train(
    experiment: Experiment,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train an experiment in a directory; `resume` continues exactly where the last whole checkpoint ended.

    Raises ArchlabError if the directory holds another run, if the model does not fit in memory, or if the loss is no
    longer finite.
    """
    # Before open_run, which overwrites an earlier run: an experiment that cannot be trained leaves the directory alone.
    experiment = prepare_experiment(experiment, _previous_settings(folder, experiment.train) if resume else None)
    open_run(experiment, folder, resume, force)
    return Trainer(experiment, folder, resume, CallbackList(callbacks)).run()


def _previous_settings(folder: Path, train: TrainConfig) -> dict[str, str]:
    """Return each `auto` setting as it was resolved when the run started: resuming is exact only with the same ones."""
    file = folder / "experiment.yaml"
    earlier = load(file, recorded=True).train if file.is_file() else train
    return {key: getattr(earlier, key) for key in ("device", "precision", "compile") if getattr(train, key) == "auto"}


class Trainer:
    """A training run, from its last checkpoint to its last step."""

    def __init__(self, experiment: Experiment, folder: Path, resume: bool, callback: Callback) -> None:
        self.experiment, self.train, self.folder, self.callback = experiment, experiment.train, folder, callback
        self.train_step = TrainStep(experiment)
        self.model, self.task = self.train_step.model, self.train_step.task
        last = checkpoint.latest_checkpoint(folder / "checkpoints") if resume else None
        # After the model is built: loading also restores the default random generator, which building reseeds.
        state = checkpoint.load_checkpoint(last, self.model, self.train_step.optimizer) if last else {}
        self.train_step.step, self.resumed = int(state.get("step", 0)), last is not None

    @property
    def step(self) -> int:
        """The number of optimizer steps done."""
        return self.train_step.step

    def run(self) -> TrainResult:
        """Train to the last step and save the model; Ctrl-C saves a checkpoint first."""
        self.callback.on_start(self.experiment, self.step)
        resume_step = self.step if self.resumed else None
        try:
            with MetricsLog(self.folder, tensorboard=self.train.tensorboard, resume_step=resume_step) as log:
                self._train_loop(log)
        except KeyboardInterrupt:
            self._save()
            raise
        finally:
            self.callback.on_end()
        # Last, since a directory `final` means a finished run: until then there is the checkpoint to resume from.
        checkpoint.save_model(self.folder / "final", self.model, self.experiment.resolved, self._provenance())
        return TrainResult(self.folder, last_metrics(self.folder))

    def _train_loop(self, log: MetricsLog) -> None:
        """Make the remaining optimizer steps, with evaluations and checkpoints when they are due."""
        # Ctrl-C during an evaluation saves a checkpoint after the step, whose evaluation is then still missing.
        if self.step and not any("val_loss" in r for r in read_metrics(self.folder) if r["step"] == self.step):
            self._evaluate(log)
        while self.step < self.train.steps:
            # An interrupted optimizer step, or one whose record is missing, could not be resumed from exactly.
            with defer_keyboard_interrupt():
                record = self.train_step()
                if _is_due(self.step, self.train.log_every, self.train.steps):
                    log.append(record)
            self.callback.on_step(record)  # after the record is on disk, which a callback may read, or end the run
            self._evaluate(log)
            if _is_due(self.step, self.train.checkpoint_every, self.train.steps):
                self._save()

    def _evaluate(self, log: MetricsLog) -> None:
        """Evaluate on the validation split if it is due; raise TrainingError if the loss is not finite."""
        t = self.train
        if not _is_due(self.step, t.eval_every, t.steps):
            return
        result = evaluate(self.model, self.task, "validation", max_tokens=t.eval_tokens, **eval_options(t))
        metrics = result.metrics
        if not math.isfinite(metrics["loss"]):
            raise TrainingError(f"step {self.step}: the validation loss is {metrics['loss']}; try a smaller train.lr")
        record = {"step": self.step, **{f"val_{name}": metrics[name] for name in self.task.metrics}}
        log.append(record)
        self.callback.on_eval(record)

    def _save(self) -> None:
        optimizer, keep = self.train_step.optimizer, self.train.keep_checkpoints
        checkpoint.save_checkpoint(self.folder / "checkpoints", self.step, self.model, optimizer, {}, keep=keep)

    def _provenance(self) -> dict[str, Any]:
        return {"step": self.step, "versions": versions(), "data": self.task.describe()}


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
