"""Run a ladder: each rung's runs, who goes on, and the forecast of the next rung before it is trained.

The same command resumes it. Several processes may work on one directory: each run is locked by the one that trains it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from archlab.errors import ArchlabError
from archlab.runtime.outcome import Outcome, outcome_of
from archlab.runtime.signals import stop_on_signals
from archlab.searching.failures import failure_reason
from archlab.searching.ladder.callbacks import LadderCallback, LadderCallbackList
from archlab.searching.ladder.candidates import all_candidates, infeasible_reason
from archlab.searching.ladder.capacity import refusal
from archlab.searching.ladder.config import Candidate, Ladder, Rung, parse_ladder
from archlab.searching.ladder.forecasting import Aim, draft_forecast
from archlab.searching.ladder.forecasts import Forecast, require_forecast, write_forecast
from archlab.searching.ladder.launch import launched_params, write_launch, write_rung
from archlab.searching.ladder.plan_rungs import RungPlan, plan_rung
from archlab.searching.ladder.results import (
    FAILURE,
    LOCK,
    RunResult,
    failures,
    read_failure,
    read_loss,
    to_plain,
    write_failure,
)
from archlab.searching.ladder.runs import LadderRun
from archlab.searching.ladder.selection import Decision, decide, read_decision, write_decision
from archlab.searching.ladder.sizes import size_of
from archlab.searching.ladder.summary import LadderSummary, RungSummary, summarize
from archlab.searching.space.search_space import Space
from archlab.searching.study.search_dir import open_search
from archlab.searching.study.workers import hold_lease
from archlab.storage.files import remove_dir_atomic
from archlab.storage.locks import lock
from archlab.storage.ownership import RUN
from archlab.training.trainer import train

REHEARSAL_S = 12 * 60  # after which a rehearsal leaves runs out, so that it ends within 15 minutes whatever the file


@dataclass(frozen=True)
class LadderResult:
    """The directory of a ladder and its summary; `waiting` tells why it cannot go on here, if it cannot."""

    folder: Path
    summary: LadderSummary
    waiting: str


def run_ladder(
    space: Space, folder: Path, *, callbacks: Sequence[LadderCallback] = (), force: bool = False
) -> LadderResult:
    """Run the ladder of a space in a directory, or resume the one that the directory holds; `force` starts over.

    Raises ArchlabError where the directory holds another search or ladder, or a forecast was changed.
    """
    ladder = parse_ladder(space)
    candidates = all_candidates(ladder)
    with stop_on_signals(), open_search(space, folder, force), hold_lease(folder):
        return LadderWorker(ladder, candidates, folder, LadderCallbackList(callbacks)).run()


class LadderWorker:
    """One of the processes that work on a ladder."""

    def __init__(self, ladder: Ladder, candidates: Sequence[Candidate], folder: Path, callback: LadderCallback) -> None:
        self.ladder, self.candidates, self.folder, self.callback = ladder, candidates, folder, callback
        self.results: list[RunResult] = []
        self.rungs: list[RungSummary] = []
        self.failed: dict[str, str] = {}
        self.start = time.monotonic()
        self._aim: Aim | None = None
        self._losses: dict[Path, float] = {}

    def run(self) -> LadderResult:
        """Climb from rung to rung as far as this machine can; return the result."""
        self.callback.on_ladder(self.ladder, [candidate.name for candidate in self.candidates])
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
        """Run a rung; return why it cannot be run here, or who goes on."""
        end_of_planning = self._planning_end(rung.number)
        plan, problems = plan_rung(self.ladder, rung, going, self.folder, lambda: time.monotonic() > end_of_planning)
        self.failed |= problems
        forecast = self._write_forecast(plan)
        done = sum(self._has_ended(run) for run in plan.runs)
        self.callback.on_rung(rung, plan.aim.params, done, len(plan.runs), forecast)
        if done < len(plan.runs) and (waiting := "" if self.ladder.is_rehearsal else refusal(rung, plan)):
            write_rung(self.folder, rung, plan.runs)
            self.rungs.append(RungSummary.of(plan, (), forecast, None, waiting))
            return waiting, going
        self._train_all(plan.runs)
        results = [self._result(plan, run) for run in plan.runs if not self._is_left_out(run)]
        self.results += results
        self.failed |= failures(results)
        decision = self._decide(plan)
        self._delete_checkpoints(plan.runs)
        self.rungs.append(RungSummary.of(plan, results, forecast, decision, ""))
        self.callback.on_decision(rung, decision)
        return "", [candidate for candidate in going if candidate.name in decision.goes_on]

    def _write_forecast(self, plan: RungPlan) -> Forecast | None:
        """Write the forecast of a rung before its first run, or check that the one that was written is there."""
        if plan.rung.number == 1:
            return None
        if any((run.folder / LOCK).exists() or self._has_ended(run) for run in plan.runs):
            return require_forecast(self.folder, plan.rung.number)
        names = list(plan.entrants)
        params = {name: float(entrant.params) for name, entrant in plan.entrants.items()}
        draft = draft_forecast(self.results, names, plan.aim, params, self.ladder.metric)
        with lock(self.folder / ".ladder.lock", wait=True):
            return write_forecast(self.folder, plan.rung.number, draft, [to_plain(r) for r in self.results])

    def _has_ended(self, run: LadderRun) -> bool:
        return bool(read_failure(run)) or self._loss(run) is not None

    def _loss(self, run: LadderRun) -> float | None:
        """Return what a run reached, read and compared with its experiment once."""
        if run.folder not in self._losses and (loss := read_loss(run, self.ladder.metric)) is not None:
            self._losses[run.folder] = loss
        return self._losses.get(run.folder)

    def _train_all(self, runs: Iterable[LadderRun]) -> None:
        """Train what has not ended, trunks before the branches that start from them."""
        runs = list(runs)
        for group in ([r for r in runs if r.trunk is None], [r for r in runs if r.trunk is not None]):
            for wait in (False, True):  # what another worker trains is waited for when nothing else is left
                for run in group:
                    if not self._has_ended(run):
                        self._train_locked(run, wait)

    def _train_locked(self, run: LadderRun, wait: bool) -> None:
        if self._is_late(run.rung):
            return
        with lock(run.folder / LOCK, wait=wait) as acquired:
            if acquired and not self._has_ended(run):
                self._train(run)

    def _is_late(self, rung: int) -> bool:
        """Tell whether a rehearsal has used up the time of its rungs so far."""
        return time.monotonic() > self._end(rung)

    def _end(self, rung: int) -> float:
        """Return when a rung of a rehearsal has to end: the first, with the most candidates, takes half of the time."""
        if not self.ladder.is_rehearsal:
            return math.inf
        return self.start + REHEARSAL_S * (0.5 + 0.5 * (rung - 1) / max(1, len(self.ladder.rungs) - 1))

    def _planning_end(self, rung: int) -> float:
        now = time.monotonic()
        return now + (self._end(rung) - now) / 2

    def _is_left_out(self, run: LadderRun) -> bool:
        return self.ladder.is_rehearsal and not self._has_ended(run)

    def _train(self, run: LadderRun) -> None:
        if reason := _earlier_failure(run):
            write_failure(run, reason)
            return
        callback = self.callback.on_run(run.label)
        try:
            train(run.experiment, run.folder, callbacks=[callback], resume=True)
        except BaseException as error:
            if outcome_of(error) is not Outcome.TRIAL:
                raise
            write_failure(run, failure_reason(error))
            self.callback.on_result(run.label, None, failure_reason(error))
            return
        finally:
            torch.compiler.reset()  # the next run has another model
        self.callback.on_result(run.label, self._loss(run), "")

    def _result(self, plan: RungPlan, run: LadderRun) -> RunResult:
        entrant, loss = plan.entrants[run.candidate], self._loss(run)
        reason = read_failure(run) or ("" if loss is not None else f"{self.ladder.metric} is not a finite number")
        train = run.experiment.train
        # A branch costs its decay alone.
        steps = train.steps if run.trunk is None else round(train.steps * getattr(train, "decay_fraction", 1.0))
        flops = entrant.flops_per_token * steps * train.batch_size * train.accumulate * train.context
        loss = None if reason else loss
        return RunResult(run.rung, run.candidate, run.seed, run.part, entrant.params, run.tokens, flops, loss, reason)

    def _decide(self, plan: RungPlan) -> Decision:
        """Return who goes on, as it was decided once; raise ArchlabError if that was on other losses."""
        place = self.folder / "rungs" / str(plan.rung.number)
        with lock(self.folder / ".ladder.lock", wait=True):
            decided = read_decision(place)
            decision = decide(plan.rung, self.results, self._target_aim(), self.failed)
            if decided is None:
                write_decision(place, decision)
                return decision
        if decided.losses != decision.losses:
            raise ArchlabError(f"{place}: its runs were changed after it was decided who goes on; restore them")
        return decided

    def _delete_checkpoints(self, runs: Iterable[LadderRun]) -> None:
        """Delete what only a resumed run needs; branches repeat from their trunk's, which stay."""
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
        """Forecast the target, write what is to be launched, and the summary."""
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


def _earlier_failure(run: LadderRun) -> str:
    """Return why a run is not worth its time: another one of its candidate has failed at this rung."""
    for other in sorted(run.folder.parent.glob("seed_*")):
        if other != run.folder and (other / FAILURE).is_file():
            return f"left out: {other.name} has failed"
    return ""
