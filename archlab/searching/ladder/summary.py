"""The summary of a ladder: ladder.json, from which it is printed and reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, one_line
from archlab.planning.backtest import rank_agreement
from archlab.runtime.environment import hardware_info, versions
from archlab.searching.ladder.config import Ladder
from archlab.searching.ladder.forecasting import Aim, fit
from archlab.searching.ladder.forecasts import Forecast
from archlab.searching.ladder.plan_rungs import RungPlan
from archlab.searching.ladder.results import RunResult, from_plain, mean_losses
from archlab.searching.ladder.selection import Decision, verdict
from archlab.storage.files import write_text
from archlab.storage.json_values import require_fields

NAME = "ladder.json"
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class RungSummary:
    """A rung: its planned size, its forecast, its results, and the candidates that continue.

    `losses` are means over seeds of whole runs, from the best to the worst; `agreement` compares them with the rung
    before: pairs in the same order, and Spearman's correlation. `waiting` is the reason if it was not trained here.
    """

    number: int
    params: float
    tokens: float
    candidates: list[str]
    losses: dict[str, float]
    forecast: dict[str, Json] | None
    decision: dict[str, Json] | None
    waiting: str
    agreement: dict[str, float]

    @classmethod
    def of(
        cls,
        plan: RungPlan,
        results: Sequence[RunResult],
        forecast: Forecast | None,
        decision: Decision | None,
        waiting: str,
    ) -> RungSummary:
        """Summarize a rung that has been run, or waits to be."""
        return cls(
            number=plan.rung.number,
            params=plan.aim.params,
            tokens=plan.aim.tokens,
            candidates=list(plan.entrants),
            losses=mean_losses(results),
            forecast=asdict(forecast) if forecast else None,
            decision=asdict(decision) if decision else None,
            waiting=waiting,
            agreement={},
        )


@dataclass(frozen=True)
class LadderSummary:
    """A ladder: its rungs, the forecast of its target, and how far both are to be believed.

    - `verdict`: which candidate is best, or that they cannot be distinguished, and what budget would distinguish them.
    - `ranking`: the plain one, by the loss at the largest rung.
    - `target`: the forecast of the target as it is in forecasts/; `fit`: the laws, as `archlab fit --json` has them,
      with the backtest that leaves the largest rung out, or the reason in `problem` why there are none.
    - `failed`: why candidates dropped out without a loss. `flops`: counted, of all runs.
    """

    search: str
    metric: str
    is_rehearsal: bool
    waiting: str
    rungs: list[RungSummary]
    results: list[RunResult]
    ranking: list[str]
    goes_on: list[str]
    failed: dict[str, str]
    verdict: str
    target: dict[str, Json] | None
    fit: dict[str, Json] | None
    problem: str
    flops: float
    machine: dict[str, str | int]
    versions: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write ladder.json into a ladder's directory."""
        write_text(folder / NAME, json.dumps(asdict(self), indent=2))


def summarize(
    ladder: Ladder,
    rungs: Sequence[RungSummary],
    results: Sequence[RunResult],
    failed: Mapping[str, str],
    going: Sequence[str],
    aim: Aim | None,
    target: Forecast | None,
    waiting: str,
) -> LadderSummary:
    """Return the summary of a ladder so far."""
    trained = [rung for rung in rungs if rung.losses]
    aim = aim or (Aim(trained[-1].params, trained[-1].tokens) if trained else None)
    finalists = [name for name in (trained[-1].losses if trained else {}) if name in going or not going]
    fitted = fit(results, finalists, aim) if aim is not None and finalists else "no rung is complete"
    return LadderSummary(
        search=ladder.space.name,
        metric=ladder.metric,
        is_rehearsal=ladder.is_rehearsal,
        waiting=waiting,
        rungs=_with_agreement(rungs),
        results=list(results),
        ranking=list(trained[-1].losses) if trained else [],
        goes_on=list(going),
        failed=dict(failed),
        verdict=_verdict(ladder, fitted, results),
        target=asdict(target) if target else None,
        fit=None if isinstance(fitted, str) else json.loads(json.dumps(fitted.to_dict())),
        problem=fitted if isinstance(fitted, str) else "",
        flops=float(sum(result.flops for result in results)),
        machine=hardware_info(),
        versions=versions(),
    )


def _verdict(ladder: Ladder, fitted: Any, results: Sequence[RunResult]) -> str:
    if ladder.is_rehearsal:
        return "a rehearsal: its losses say nothing about any candidate"
    # Without a target the law would only repeat the largest rung.
    return verdict(fitted if ladder.target is not None or isinstance(fitted, str) else "no target is named", results)


def _with_agreement(rungs: Sequence[RungSummary]) -> list[RungSummary]:
    agreements: dict[int, dict[str, float]] = {}
    for small, large in pairwise(rungs):
        if len(set(small.losses) & set(large.losses)) > 1:
            found = rank_agreement(small.losses, large.losses)
            agreements[large.number] = {
                "pairs": found.pairs,
                "decision_accuracy": found.decision_accuracy,
                "spearman": found.spearman,
            }
    return [RungSummary(**{**vars(rung), "agreement": agreements.get(rung.number, {})}) for rung in rungs]


def forecast_of(rung: RungSummary) -> dict[str, dict[str, Any]]:
    """Return the figures that were forecast of a rung, by candidate."""
    found = (rung.forecast or {}).get("candidates")
    return {name: figures for name, figures in found.items() if isinstance(figures, dict)} if found else {}  # type: ignore[union-attr]


def read_ladder(folder: Path) -> LadderSummary | None:
    """Return the summary in a ladder's directory, or None until there is one; raise ArchlabError for another file."""
    file = folder / NAME
    if not file.is_file():
        return None
    data = read_object(file, "the summary of a ladder")
    try:
        rungs = [RungSummary(**rung) for rung in data.pop("rungs")]
        results = [from_plain(result, file) for result in data.pop("results")]
        summary = LadderSummary(**data, rungs=rungs, results=results)
    except (TypeError, KeyError, AttributeError) as error:
        raise ArchlabError(f"{file}: is not the summary of a ladder: {one_line(error)}") from error
    for part in (summary, *rungs):
        require_fields(part, file)
    return summary
