"""Training: from an experiment to a run directory with metrics, checkpoints and the trained model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from archlab.config.experiment import Experiment
from archlab.errors import TrainingError
from archlab.inference.evaluate import eval_options, evaluate
from archlab.modeling.cost import estimate_cost
from archlab.modeling.optimizer import at_average
from archlab.parallel.ranks import Ranks, join_ranks
from archlab.runtime.determinism import deterministic_algorithms
from archlab.runtime.distributed_env import was_restarted
from archlab.runtime.environment import versions
from archlab.runtime.outcome import Outcome, outcome_of
from archlab.runtime.signals import Stopped, defer_keyboard_interrupt, stop_on_signals
from archlab.storage import checkpoint
from archlab.storage.identity import KEY, Identity
from archlab.training.callbacks import Callback, CallbackList
from archlab.training.data_identity import data_identity, require_same_data
from archlab.training.metrics import MetricsLog
from archlab.training.metrics import read as read_metrics
from archlab.training.one_process import refuse_one_process
from archlab.training.run_dir import join_identity, last_metrics, require_own
from archlab.training.run_start import RunStart
from archlab.training.run_tokens import read_run_tokens, use_run_tokens
from archlab.training.saving import Saver
from archlab.training.start_from import load_start
from archlab.training.step import TrainStep

_log = logging.getLogger(__name__)
PeakFlops: TypeAlias = Callable[[str, str], float | None]  # of a type of device, in a precision


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
    save_every_s: float | None = None,
    peak_flops: PeakFlops | None = None,
) -> TrainResult:
    """Train an experiment in a directory; `resume` continues exactly where the last whole checkpoint ended.

    `save_every_s` is for a run that is likely to be killed: beside the experiment's own checkpoints one is saved after
    the first step, and whenever so many seconds have passed. `peak_flops` returns the FLOP/s of a device in a
    precision, or None, for `mfu` in the metrics.
    Raises ArchlabError if the directory holds another run or anything that archlab did not write, if another process
    trains there, if the model does not fit in memory, or if the loss is no longer finite.
    """
    refuse_one_process(experiment)
    again = was_restarted()  # by a launcher, after a failure: the files are this run's
    resume, force = resume or again, force and not again
    with stop_on_signals(), deterministic_algorithms(), join_ranks(experiment) as ranks, ExitStack() as held:
        start = RunStart(experiment, folder, resume, force, ranks.count)
        # The first process alone looks at the directory and writes there; the others continue with its findings.
        decided = ranks.on_first(lambda: start.begin(held))
        if not ranks.is_first:
            start.follow(decided)
        callback = CallbackList([*start.loggers(), *callbacks]) if ranks.is_first else Callback()
        trainer = Trainer(start.experiment, folder, start.last, callback, start.identity, ranks, save_every_s)
        if ranks.is_first and peak_flops is not None:
            trainer.train_step.peak_speed = _peak_speed(start.experiment, peak_flops)
        return trainer.run()


def _peak_speed(experiment: Experiment, peak_flops: PeakFlops) -> float | None:
    peak = peak_flops(experiment.train.device, experiment.train.precision)
    return None if peak is None else peak / estimate_cost(experiment).flops_per_token


class Trainer:
    """A training run, from its last checkpoint to its last step."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        last: Path | None,
        callback: Callback,
        identity: Identity,
        ranks: Ranks | None = None,
        save_every_s: float | None = None,
    ) -> None:
        self.save_every_s = save_every_s
        self.experiment, self.train, self.folder, self.callback = experiment, experiment.train, folder, callback
        self.ranks, self.log = ranks or Ranks(), None  # type: Ranks, MetricsLog | None
        with self.ranks.keep_error():
            self._build(last, identity)
        self.ranks.raise_together()
        self._tell_of_waiting()

    def _tell_of_waiting(self) -> None:
        chunks = self.ranks.layout.chunk
        if self.train_step.is_relayed and self.ranks.is_first and self.train_step.work.rows == 1:
            _log.warning(
                "parallel.chunk: a rank has one sequence at a time, for which %d ranks compute one after the other; "
                "more sequences at a time (train.batch_size) keep all of them at work",
                chunks,
            )

    def _build(self, last: Path | None, identity: Identity) -> None:
        experiment, folder = self.experiment, self.folder
        self.train_step = TrainStep(use_run_tokens(experiment, folder), self.ranks)
        self.model, self.task = self.train_step.model, self.train_step.task
        self.saver = Saver(folder / "checkpoints", self.train, self.train_step, self.ranks, self._tell)
        # After the model is built: loading also restores the default random generator, which building reseeds.
        state, self.resumed = self.train_step.load(last) if last else {}, last is not None
        start = self.train.start_from if last is None else None
        self.started_from = load_start(start, self.train_step) if start else state.get("start_from")
        self.data = data_identity(self.task)
        if last is not None:
            require_same_data(state.get("data", {}), self.data, last)
        # After the data are compared: it writes their checksum into the run's directory.
        self.identity = identity
        if self.ranks.is_first:
            self.identity = join_identity(folder, identity, self.data.get("sha256"), last)
        self.expected_log = state.get("metrics_log")

    @property
    def step(self) -> int:
        """The number of optimizer steps done."""
        return self.train_step.step

    def run(self) -> TrainResult:
        """Train to the last step and save the model; a user's wish to stop saves a checkpoint first."""
        try:
            with self.ranks.keep_error():
                self.callback.on_start(self.experiment, self.step)
            self._train_logged()
            self.saver.finish()
        except BaseException as error:
            try:
                if outcome_of(error) is Outcome.USER:
                    error.add_note(self._save_at_stop(error))
            finally:
                self.saver.end(error)
            raise
        self.ranks.publish(self.step, "write")
        self.ranks.on_first(self._publish)
        return TrainResult(self.folder, last_metrics(self.folder))

    def _publish(self) -> None:
        """Save the model: last, since a directory `final` means a finished run; until then there is the checkpoint."""
        require_own(self.folder, self.identity)
        final, tokens = self.folder / "final", read_run_tokens(self.folder)
        resolved, provenance, weights = self.experiment.resolved, self._provenance(), self.saver.last_weights()
        with at_average(self.train_step.optimizer):
            checkpoint.save_model(final, self.model, resolved, provenance, tokens, weights=weights)

    def _save_at_stop(self, error: BaseException) -> str:
        """Save a checkpoint, unless the user cannot wait; return the message about it."""
        # Not after a second signal, by which an optimizer step may have ended half done, and the user waits.
        if isinstance(error, Stopped) and error.at_once:
            last = max(checkpoint.checkpoints(self.folder / "checkpoints"), default=None)
            return f"{self.folder}: {'nothing was saved' if last is None else f'was last saved at step {last}'}"
        self.saver.save()
        self.saver.finish()
        return f"{self.folder}: saved at step {self.step}"

    def _train_logged(self) -> None:
        try:
            with ExitStack() as opened, self.ranks.together():
                self.ranks.on_first(lambda: self._open_log(opened))
                self._train_loop()
        finally:
            self.callback.on_end()

    def _open_log(self, opened: ExitStack) -> None:
        resume_step = self.step if self.resumed else None
        board, expected = self.train.tensorboard, self.expected_log
        log = MetricsLog(self.folder, tensorboard=board, resume_step=resume_step, expected=expected)
        self.log = opened.enter_context(log)

    def _append(self, record: Mapping[str, float]) -> None:
        if self.log is not None:
            self.log.append(record)

    def _lacks_evaluation(self) -> bool:
        """Return whether a signal during an evaluation has saved the checkpoint that the run continues from."""
        return not any("val_loss" in r for r in read_metrics(self.folder) if r["step"] == self.step)

    def _train_loop(self) -> None:
        """Make the remaining optimizer steps, with evaluations and checkpoints when they are due."""
        if self.step and self.ranks.on_first(self._lacks_evaluation):
            self._evaluate()
        while self.step < self.train.steps:
            with self.ranks.keep_error():
                self.saver.check()
            self.ranks.raise_together()
            # An interrupted optimizer step, or one whose record is missing, could not be resumed from exactly.
            with defer_keyboard_interrupt():
                record = self.train_step()
                if _is_due(self.step, self.train.log_every, self.train.steps):
                    with self.ranks.keep_error():
                        self._append(record)
            with self.ranks.keep_error():
                self.callback.on_step(record)  # after the record is on disk, which a callback may read, or end the run
            self._evaluate()
            if self._must_save():
                self.saver.save()
        self.ranks.raise_together()

    def _must_save(self) -> bool:
        is_asked_for = self.step in (self.train.checkpoint_at or ())
        if is_asked_for or _is_due(self.step, self.train.checkpoint_every, self.train.steps):
            return True
        # All save together, and their clocks differ.
        return self.save_every_s is not None and self.ranks.on_first(self._is_late)

    def _is_late(self) -> bool:
        return self.save_every_s is not None and time.monotonic() - self.saver.saved_at >= self.save_every_s

    def _evaluate(self) -> None:
        """Evaluate on the validation split if it is due; raise TrainingError if the loss is not finite."""
        t = self.train
        if not _is_due(self.step, t.eval_every, t.steps):
            return
        self.ranks.publish(self.step, "evaluate")
        with at_average(self.train_step.optimizer):
            result = evaluate(
                self.model,
                self.task,
                "validation",
                max_tokens=t.eval_tokens,
                progress=self._show_evaluation,
                ranks=self.ranks,
                **eval_options(t),
            )
        metrics = result.metrics
        if not math.isfinite(metrics["loss"]):
            problem = f"step {self.step}: the validation loss is {metrics['loss']}; try a smaller train.lr"
            raise self.ranks.report_once(TrainingError(problem))
        record = {"step": self.step, **{f"val_{name}": metrics[name] for name in self.task.metrics if name in metrics}}
        with self.ranks.keep_error():
            self._append(record)
            self.callback.on_eval(record)

    def _show_evaluation(self, done: int, total: int | None) -> None:
        with self.ranks.keep_error():
            self.callback.on_eval_progress(done, total)
        self.ranks.raise_together()

    def _tell(self) -> dict[str, Any]:
        """Return a checkpoint's data of the run beside its state; raise if the directory is not the run's."""
        require_own(self.folder, self.identity)
        return {**self._origin(), "data": self.data}

    def _origin(self) -> dict[str, Any]:
        """Return a checkpoint's data about its run: its identity, its start, and size and checksum of its metrics."""
        metrics = self.log.summary() if self.log else self.expected_log
        known = {"metrics_log": metrics, "start_from": self.started_from}
        return {KEY: dict(self.identity), **{key: value for key, value in known.items() if value}}

    def _provenance(self) -> dict[str, Any]:
        return {"step": self.step, "versions": versions(), "data": self.task.describe(), **self._origin()}


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
