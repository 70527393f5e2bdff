"""Which candidates continue to the next rung, and whether the best can be distinguished from the others."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from archlab.planning.fit import Fit
from archlab.searching.ladder.config import Rung
from archlab.searching.ladder.forecasting import BY_LAW, BY_LOSS, Aim, fit, last_rung
from archlab.searching.ladder.noise import SeedNoise, seed_noise
from archlab.searching.ladder.results import RunResult, mean_losses
from archlab.storage.files import write_text
from archlab.storage.json_values import read_record

FILE = "decision.json"
_SURE = 0.9  # the probability of being best from which a candidate counts as the best
_NORMAL_90, _ONE_SIDED_90 = 1.645, 1.282  # half of a two-sided 90 % interval, and a one-sided one
_BEYOND_REACH = 1000


@dataclass(frozen=True)
class Decision:
    """Which candidates continue from a rung, and why the others do not.

    `by` is the law's forecast at the target, or the plain loss; `losses` are the mean losses that it was made from.
    """

    goes_on: list[str]
    dropped: dict[str, str]
    by: str
    losses: dict[str, float]
    notes: list[str] = field(default_factory=list)


def decide(rung: Rung, results: Sequence[RunResult], aim: Aim | None, failed: Mapping[str, str]) -> Decision:
    """Select the `keep` best at the target, or at this rung if no law fits, and as many more as `room` allows."""
    here = [result for result in results if result.rung == rung.number]
    losses = {name: loss for name, loss in mean_losses(here).items() if name not in failed}
    fitted = fit(results, list(losses), aim) if aim is not None and losses else "no target is named"
    ranking = list(losses) if isinstance(fitted, str) else [found.candidate for found in fitted.candidates]
    keep = len(ranking) if rung.keep is None else rung.keep
    kept, rest = ranking[:keep], ranking[keep:]
    close = [name for name in rest if _is_close(kept[-1], name, losses, fitted, here, seed_noise(results))]
    kept += close[: rung.room]
    dropped = {name: _why_dropped(name, name in close, keep) for name in rest if name not in kept}
    notes = [f"no law could be fitted: {fitted}"] if isinstance(fitted, str) else []
    return Decision(kept, dropped, BY_LOSS if isinstance(fitted, str) else BY_LAW, losses, notes)


def _why_dropped(name: str, is_close: bool, keep: int) -> str:
    tail = ", though within noise of the last of them" if is_close else ""
    return f"not among the {keep} best{tail}"


def _is_close(
    last: str,
    name: str,
    losses: Mapping[str, float],
    fitted: Fit | str,
    here: Sequence[RunResult],
    noise: SeedNoise | None,
) -> bool:
    """Return whether a candidate cannot be distinguished from the last that continues."""
    if not isinstance(fitted, str):
        of = {found.candidate: found for found in fitted.candidates}
        deviation = math.hypot(*(_deviation(of[one].interval) for one in (last, name)))
        return of[name].forecast - of[last].forecast <= _NORMAL_90 * deviation
    if noise is None:
        return False
    seeds = count_seeds(here)
    return math.log(losses[name] / losses[last]) <= noise.margin(seeds[last], seeds[name])


def count_seeds(results: Sequence[RunResult]) -> Counter[str]:
    """Return the number of whole runs of each candidate."""
    return Counter(r.candidate for r in results if r.part == 1.0 and r.loss is not None)


def _deviation(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / (2 * _NORMAL_90)


def verdict(fitted: Fit | str, results: Sequence[RunResult]) -> str:
    """Say which candidate is best, or that they cannot be distinguished, and what budget would distinguish them."""
    if not isinstance(fitted, str):
        return _verdict_by_law(fitted, results)
    here = last_rung(results)
    losses, noise, seeds = mean_losses(here), seed_noise(results), count_seeds(here)
    if len(losses) < 2:
        return f"only {', '.join(losses) or 'none'} is left"
    (best, loss), (second, other) = list(losses.items())[:2]
    difference = math.log(other / loss)
    if noise is None:
        return f"{best} is ahead by {difference:.1%}; with one seed each, this may be noise"
    margin = noise.margin(seeds[best], seeds[second])
    if difference > margin:
        return f"{best} is ahead of {second} by {difference:.1%}, more than the {margin:.1%} of noise, at this size"
    close = [name for name in losses if math.log(losses[name] / loss) <= noise.margin(seeds[best], seeds[name])]
    return _stop(close, (margin / difference) ** 2 if difference > 0 else math.inf, results)


def _verdict_by_law(fitted: Fit, results: Sequence[RunResult]) -> str:
    best, *others = fitted.candidates
    if not others:
        return f"only {best.candidate} is left"
    if best.probability_best >= _SURE:
        return f"{best.candidate} is best with probability {best.probability_best:.0%}"
    close = [found for found in fitted.candidates if found.probability_best >= (1 - _SURE) / 2]
    names = [found.candidate for found in close] if len(close) > 1 else [best.candidate, others[0].candidate]
    difference = others[0].forecast - best.forecast
    deviation = math.hypot(_deviation(best.interval), _deviation(others[0].interval))
    times = (_ONE_SIDED_90 * deviation / difference) ** 2 if difference > 0 else math.inf
    return _stop(names, max(times, 1.0), results)


def _stop(names: Sequence[str], times: float, results: Sequence[RunResult]) -> str:
    # Noise falls with the root of the number of runs: `times` as many resolve a difference of this size.
    flops = sum(result.flops for result in results)
    rounded = float(f"{times:.2g}")  # 220, and not 2.2e+02
    seeds = f"about {rounded:g} times as many seeds ({times * flops:.2g} FLOPs instead of {flops:.2g})"
    budget = f"{seeds if rounded > 1 else 'a few more seeds'}, or a larger rung"
    if times > _BEYOND_REACH:
        budget = "no number of seeds within reach, since they differ too little; a larger rung may"
    return f"stop: these cannot be distinguished at this budget: {', '.join(names)}. To distinguish them: {budget}"


def read_decision(folder: Path) -> Decision | None:
    """Return the decision after a rung, or None before it; raise ArchlabError for a damaged file."""
    file = folder / FILE
    return read_record(Decision, file, "a decision of a ladder") if file.is_file() else None


def write_decision(folder: Path, decision: Decision) -> None:
    """Record which candidates continue, so that a resumed ladder continues with the same ones."""
    write_text(folder / FILE, json.dumps(asdict(decision), indent=2))
