"""The best trial beside the baseline: how far apart they are, and whether that is more than noise, and fair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config.domains import Interval
from archlab.reporting.format import brief
from archlab.reporting.search_data import Run, SearchData
from archlab.searching.results.against_baseline import whole_split_values
from archlab.searching.results.choices import significant_difference
from archlab.searching.sampling.candidates import Candidate

_LR = "train.lr"


@dataclass(frozen=True)
class Comparison:
    """A metric of the best trial and of the baseline; `margin` is what seeds explain at 95 %, if known.

    `is_whole` if both were measured on the whole validation split rather than during training.
    """

    metric: str
    best: float
    baseline: float
    sign: float
    margin: float | None
    is_whole: bool

    @property
    def gain(self) -> float:
        """How much better the best trial is; negative if it is worse."""
        return self.sign * (self.baseline - self.best)

    @property
    def is_noise(self) -> bool:
        """Whether random seeds alone explain the difference."""
        return self.margin is not None and abs(self.gain) <= self.margin

    def describe(self) -> str:
        """Return the difference in words."""
        size = f"{abs(self.gain):.4g}" + (f" ({abs(self.gain / self.baseline):.1%})" if self.baseline else "")
        word = "better" if self.gain > 0 else "worse" if self.gain < 0 else "apart"
        return f"{size} {word}, {self._noise()}"

    def _noise(self) -> str:
        if self.margin is None:
            return "and with one random seed each this may be noise"
        than = "no more than" if self.is_noise else "more than"
        return f"{than} the {self.margin:.2g} that random seeds alone explain (95 %)"


def compare_with_baseline(data: SearchData) -> Comparison | None:
    """Compare on the whole validation split where the objective was measured there, else as during training."""
    best, objective = data.best, data.space.objective
    if best is None:
        return None
    sign, seeds = data.space.sign, max(data.space.study.runs_per_trial, 1)
    if data.summary and (whole := whole_split_values(data.summary)):
        # Of one model each, however many random seeds the means during training are of.
        return Comparison(objective, *whole, sign, _margin(data, 1, 1), is_whole=True)
    own, base = best.metrics.get(objective), data.baseline.metrics.get(objective)
    if own is None or base is None:
        return None
    return Comparison(objective, own, base, sign, _margin(data, len(best.seed_values) or 1, seeds), is_whole=False)


def _margin(data: SearchData, own: int, base: int) -> float | None:
    """Return the difference that random seeds alone explain at 95 % between means of a given number of runs."""
    if data.noise is None:
        return None
    return significant_difference(data.noise, *(Candidate((), (0.0,) * seeds) for seeds in (own, base)))


def describe_losses(data: SearchData) -> str:
    """Return why the best trial has two losses, or nothing where it has one."""
    best, summary = data.best, data.summary
    if best is None or summary is None or summary.best_trial is None:
        return ""
    during, whole = best.metrics.get("val_loss"), summary.best_trial.validation.get("loss")
    if during is None or whole is None or f"{during:.3f}" == f"{whole:.3f}":
        return ""
    tokens = data.space.base.resolve().train.eval_tokens
    part = f"on the first {tokens:,} tokens of the validation split" if tokens else "at its last evaluation"
    seeds = f", the mean of {len(best.seed_values)} random seeds" if len(best.seed_values) > 1 else ""
    return (
        f"Two losses of one model: {during:.3f} was measured during training, {part}{seeds}; {whole:.3f} afterwards, "
        "on the whole split. Figures and tables have the first, which every trial has."
    )


def describe_fairness(data: SearchData) -> str:
    """Return whether the baseline's learning rate was tuned as those of the trials were."""
    own = data.baseline.values.get(_LR, data.space.base.resolve().train.lr)
    tuned = {**(data.space.inner.domains if data.space.inner else {}), **data.space.varied}
    if _LR not in tuned:
        return f"Learning rates were not tuned: the baseline and all trials were trained with {_LR} {brief(own)}."
    best = _tuned_baseline(data)
    over = f", over {brief(d.low)} to {brief(d.high)}" if isinstance(d := tuned[_LR], Interval) else ""
    if best is None:
        return (
            f"The baseline's learning rate was not tuned: it was trained once, with the base's {brief(own)}, and the "
            f"trials' were searched{over}. A part of the difference may be the learning rate's. {_advice(data)}"
        )
    objective = data.space.objective
    return (
        f"The baseline was trained with the base's learning rate, {brief(own)}. With its learning rate tuned as the "
        f"trials' were{over}, the base experiment is {best.title}: {objective} {best.metrics[objective]:.4g} with "
        f"{brief(best.values.get(_LR))}."
    )


def _advice(data: SearchData) -> str:
    return "" if data.space.compare else "A space with compare and inner tunes the base's own choice, too."


def _tuned_baseline(data: SearchData) -> Run | None:
    """Return the best trial that differs from the baseline in settings of training alone."""
    paths = [path for path in data.space.varied if not path.startswith("train.")]
    base = data.baseline.values
    same = [run for run in data.complete if all(_is_same(run.values, base, path) for path in paths)]
    return min(same, key=lambda run: data.space.sign * run.metrics[data.space.objective], default=None)


def _is_same(own: Mapping[str, Any], base: Mapping[str, Any], path: str) -> bool:
    value = own.get(path)
    if isinstance(value, Mapping):
        value = value.get("type") if set(value) == {"type"} else value
    return value == base.get(path)
