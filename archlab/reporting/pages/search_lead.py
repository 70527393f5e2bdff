"""The summary of a search at the top of its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from archlab.reporting.choices import describe_spent
from archlab.reporting.comparison import Comparison, compare_with_baseline, describe_fairness, describe_losses
from archlab.reporting.format import format_metrics
from archlab.reporting.html import key_figures, paragraph
from archlab.reporting.search_data import SearchData

COMPRESSORS = ("xz", "bz2", "zlib")


def lead(data: SearchData) -> str:
    """Return the verdict, the key figures, and notes for reading them."""
    comparison = compare_with_baseline(data)
    is_worse = comparison is not None and comparison.gain <= 0
    parts = [paragraph(headline(data, comparison), "lead warning" if is_worse else "lead")]
    parts.append(key_figures(_figures(data, comparison)))
    objectives = ", ".join(f"{direction} {metric}" for metric, direction in data.space.objectives.items())
    notes = [
        f"Objectives: {objectives}.",
        describe_losses(data),
        describe_fairness(data) if data.best else "",
        *describe_spent(data),
    ]
    return "".join([*parts, *(paragraph(note, "note") for note in notes if note)])


def headline(data: SearchData, comparison: Comparison | None) -> str:
    """Return the verdict: the best trial, or that none is better than the baseline."""
    best = data.best
    if best is None:
        return "No trial has been completed." if data.summary else "The search has not ended; this is its state now."
    running = "" if data.summary else "The search has not ended. So far: "
    found = f"{running}{_describe_best(data)}"
    if comparison is None:
        return f"{found}. There is no baseline to compare it with."
    where = "on the whole validation split" if comparison.is_whole else "during training"
    difference = f"Its {comparison.metric}, {where}, is {comparison.describe()}"
    if comparison.gain > 0:
        return f"{found}. {difference}."
    return f"No trial is better than the baseline. {found[0].upper()}{found[1:]}. {difference}."


def _describe_best(data: SearchData) -> str:
    bits, best = bits_per_byte(data), data.best
    assert best is not None
    if "best trial" in bits:
        own = f"the best trial, number {best.name}, needs {bits['best trial']:.3f} bits per byte"
        against = (
            f", compared with {bits['baseline']:.3f} for the baseline at the same budget" if "baseline" in bits else ""
        )
        return _capital(f"{own}{against}", data)
    objective = data.space.objective
    if data.summary and data.summary.best_trial and data.summary.best_trial.validation:
        whole = format_metrics(data.summary.best_trial.validation)
        return _capital(f"the best trial, number {best.name}: {whole} on the validation split", data)
    return _capital(f"the best trial, number {best.name}, has {objective} {best.metrics[objective]:.4g}", data)


def _capital(text: str, data: SearchData) -> str:
    return text[0].upper() + text[1:] if data.summary else text


def bits_per_byte(data: SearchData) -> dict[str, float]:
    """Return bits per byte on the validation split, of the models and the compressors."""
    if data.summary is None:
        return {}
    models = {"best trial": data.summary.best_trial, "baseline": data.summary.baseline}
    bits = {name: model.validation["bpb"] for name, model in models.items() if model and "bpb" in model.validation}
    compressors = data.summary.compressors
    return bits | {name: compressors[name] for name in COMPRESSORS if name in compressors}


def _figures(data: SearchData, comparison: Comparison | None) -> Iterator[tuple[str, str, str]]:
    if comparison is not None and data.best is not None:
        where = "whole validation split" if comparison.is_whole else "during training"
        yield f"best, {data.best.title}", f"{comparison.best:.4g}", f"{comparison.metric}, {where}"
        yield "baseline", f"{comparison.baseline:.4g}", f"{comparison.metric}, {where}"
        noise = "noise unknown" if comparison.margin is None else f"± {comparison.margin:.2g} by random seeds (95 %)"
        yield "difference", f"{comparison.best - comparison.baseline:+.4g}", noise
    counts = Counter(run.state for run in data.trials)
    states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none so far"
    yield "trials", str(len(data.trials)), states
