"""Run a ladder: each rung's runs, the candidates that continue, and the forecast of the next rung before it is trained.

The same command resumes it. Several processes may work on one directory: each run is locked by the one that trains it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from archlab.errors import ArchlabError
from archlab.runtime.signals import stop_on_signals
from archlab.searching.fleet import require_number
from archlab.searching.ladder.callbacks import LadderCallback, LadderCallbackList
from archlab.searching.ladder.candidates import all_candidates, infeasible_reason, require_experiments
from archlab.searching.ladder.capacity import elsewhere, refusal
from archlab.searching.ladder.config import Candidate, Ladder, Rung, parse_ladder
from archlab.searching.ladder.forecasting import Aim, draft_forecast
from archlab.searching.ladder.forecasts import Forecast, require_forecast, write_forecast
from archlab.searching.ladder.launch import launched_params, write_launch, write_rung
from archlab.searching.ladder.plan_rungs import RungPlan, plan_rung
from archlab.searching.ladder.rehearsal import RehearsalClock
from archlab.searching.ladder.results import (
    LOCK,
    RunResult,
    failures,
    read_failure,
    to_plain,
)
from archlab.searching.ladder.runs import LadderRun
from archlab.searching.ladder.selection import Decision, decide, read_decision, write_decision
from archlab.searching.ladder.sizes import size_of
from archlab.searching.ladder.summary import LadderSummary, RungSummary, summarize
from archlab.searching.ladder.workers import Trainer, Workers, make_trainer, without_launcher
from archlab.searching.space.search_space import Space
from archlab.searching.study.search_dir import open_search
from archlab.searching.study.workers import hold_lease
from archlab.searching.trials.one_at_a_time import one_at_a_time
from archlab.storage.files import remove_dir_atomic
from archlab.storage.locks import lock
from archlab.storage.ownership import RUN


@dataclass(frozen=True)
class LadderResult:
    """The directory of a ladder and its summary; `waiting` is the reason if it cannot continue here."""

    folder: Path
    summary: LadderSummary
    waiting: str


def run_ladder(
    space: Space,
    folder: Path,
    *,
    callbacks: Sequence[LadderCallback] = (),
    force: bool = False,
    workers: Workers = None,
) -> LadderResult:
    """Run the ladder of a space in a directory, or resume the one that the directory holds; `force` starts over.

    So many `workers` each train one run at a time, in a process of its own, where the space's launcher places them if
    it has one; with None this process trains one after the other.
    Raises ArchlabError where the directory holds another search or ladder, or a forecast was changed.
    """
    ladder = parse_ladder(space)
    candidates = all_candidates(ladder)
    require_experiments(ladder)
    require_number(space, workers)
    callback = one_at_a_time(LadderCallbackList(callbacks))
    with stop_on_signals(), open_search(space, folder, force):
        callback.on_ladder(ladder, [candidate.name for candidate in candidates])
        trainer = make_trainer(ladder, folder, callback, workers)
        with hold_lease(folder):
            return LadderWorker(ladder, candidates, folder, callback, trainer).run()


def join_ladder(space: Space, folder: Path, callbacks: Sequence[LadderCallback] = ()) -> LadderResult:
    """Be one of the workers that a launcher has placed for the ladder in a directory, until all of it is trained."""
    return run_ladder(without_launcher(space), folder, callbacks=callbacks, workers=1)


class LadderWorker:
    """One of the processes that work on a ladder."""

    def __init__(
        self, ladder: Ladder, candidates: Sequence[Candidate], folder: Path, callback: LadderCallback, trainer: Trainer
    ) -> None:
        self.ladder, self.candidates, self.folder, self.callback = ladder, candidates, folder, callback
        self.trainer, self.losses = trainer, trainer.losses
        self.clock = RehearsalClock(len(ladder.rungs), is_rehearsal=ladder.is_rehearsal)
        self.results: list[RunResult] = []
        self.rungs: list[RungSummary] = []
        self.failed: dict[str, str] = {}
        self._aim: Aim | None = None

    def run(self) -> LadderResult:
        """Run rung after rung as far as possible on this machine; return the result."""
        going = self._feasible()
        waiting = ""
        for rung in self.ladder.rungs:
            waiting, going = self._climb(rung, going)
            if waiting or not going:
                break
        return self._finish(going, waiting)

    def _feasible(self) -> list[Candidate]:
        reasons = {candidate.name: infeasible_reason(self.ladder, candidate) for candidate in self.candidates}
        self.failed |= {name: reason for name, reason in reasons.items() if reason}
        return [candidate for candidate in self.candidates if not reasons[candidate.name]]

    def _climb(self, rung: Rung, going: list[Candidate]) -> tuple[str, list[Candidate]]:
        """Run a rung; return why it cannot be run here, or which candidates continue."""
        end_of_planning = self.clock.planning_end(rung.number)
        plan, problems = plan_rung(self.ladder, rung, going, self.folder, lambda: time.monotonic() > end_of_planning)
        self.failed |= problems
        forecast = self._write_forecast(plan)
        done = sum(self.losses.has_ended(run) for run in plan.runs)
        self.callback.on_rung(rung, plan.aim.params, done, len(plan.runs), forecast)
        if done < len(plan.runs) and (waiting := self._refusal(plan)):
            write_rung(self.folder, rung, plan.runs)
            self.rungs.append(RungSummary.of(plan, (), forecast, None, waiting))
            return waiting, going
        self.trainer.train_all(plan.runs, lambda: self.clock.is_late(rung.number))
        results = [self._result(plan, run) for run in plan.runs if not self._is_left_out(run)]
        self.results += results
        self.failed |= failures(results)
        decision = self._decide(plan)
        self._delete_checkpoints(plan.runs)
        self.rungs.append(RungSummary.of(plan, results, forecast, decision, ""))
        self.callback.on_decision(rung, decision)
        return "", [candidate for candidate in going if candidate.name in decision.goes_on]

    def _refusal(self, plan: RungPlan) -> str:
        """Return why a rung is not trained here, or nothing."""
        if self.ladder.is_rehearsal:
            return ""
        return refusal(plan) if self.trainer.is_here else elsewhere(plan.rung)

    def _write_forecast(self, plan: RungPlan) -> Forecast | None:
        """Write the forecast of a rung before its first run, or check that the one that was written is there."""
        if plan.rung.number == 1:
            return None
        if any((run.folder / LOCK).exists() or self.losses.has_ended(run) for run in plan.runs):
            return require_forecast(self.folder, plan.rung.number)
        names = list(plan.entrants)
        params = {name: float(entrant.params) for name, entrant in plan.entrants.items()}
        draft = draft_forecast(self.results, names, plan.aim, params, self.ladder.metric)
        with lock(self.folder / ".ladder.lock", wait=True):
            return write_forecast(self.folder, plan.rung.number, draft, [to_plain(r) for r in self.results])

    def _is_left_out(self, run: LadderRun) -> bool:
        return self.ladder.is_rehearsal and not self.losses.has_ended(run)

    def _result(self, plan: RungPlan, run: LadderRun) -> RunResult:
        entrant, loss = plan.entrants[run.candidate], self.losses.of(run)
        reason = read_failure(run) or ("" if loss is not None else f"{self.ladder.metric} is not a finite number")
        train = run.experiment.train
        # A branch costs its decay alone.
        steps = train.steps if run.trunk is None else round(train.steps * getattr(train, "decay_fraction", 1.0))
        flops = entrant.flops_per_token * steps * train.batch_size * train.accumulate * train.context
        loss = None if reason else loss
        return RunResult(run.rung, run.candidate, run.seed, run.part, entrant.params, run.tokens, flops, loss, reason)

    def _decide(self, plan: RungPlan) -> Decision:
        """Return the recorded selection of candidates; raise ArchlabError if it was made on other losses."""
        place = self.folder / "rungs" / str(plan.rung.number)
        with lock(self.folder / ".ladder.lock", wait=True):
            decided = read_decision(place)
            decision = decide(plan.rung, self.results, self._target_aim(), self.failed)
            if decided is None:
                write_decision(place, decision)
                return decision
        if decided.losses != decision.losses:
            raise ArchlabError(f"{place}: its runs were changed after the candidates were selected; restore them")
        return decided

    def _delete_checkpoints(self, runs: Iterable[LadderRun]) -> None:
        """Delete files that only a resumed run needs; branches repeat from their trunk's, which stay."""
        trunks = {run.trunk for run in runs}
        for run in runs:
            place = run.folder / "checkpoints"
            if run.folder not in trunks and place.is_dir() and RUN["checkpoints"](place) is None:
                with suppress(FileNotFoundError):  # another worker does the same
                    remove_dir_atomic(place)

    def _target_aim(self) -> Aim | None:
        if self.ladder.target is None or self.ladder.is_rehearsal:
            return None
        if self._aim is None:
            params = size_of(self.ladder.target.experiment.resolve())
            self._aim = Aim(float(params), self.ladder.target.tokens)
        return self._aim

    def _finish(self, going: Sequence[Candidate], waiting: str) -> LadderResult:
        """Forecast the target, and write the experiments to launch and the summary."""
        names = [candidate.name for candidate in going]
        aim = self._target_aim()
        launched = write_launch(self.ladder, going, self.folder) if self.ladder.target is not None else {}
        target = None
        if aim is not None and not waiting and self.results and names:
            draft = draft_forecast(self.results, names, aim, launched_params(launched), self.ladder.metric)
            with lock(self.folder / ".ladder.lock", wait=True):
                target = write_forecast(self.folder, 0, draft, [to_plain(r) for r in self.results])
        summary = summarize(self.ladder, self.rungs, self.results, self.failed, names, aim, target, waiting)
        with lock(self.folder / ".ladder.lock", wait=True):
            summary.write(self.folder)
        return LadderResult(self.folder, summary, waiting)
