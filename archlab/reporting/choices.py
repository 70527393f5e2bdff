"""Comparison of the choices of a search: their budgets, their results, and significance."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import pairwise

from archlab.reporting.figures.axes import knob_axis
from archlab.reporting.html import anchor, heading, paragraph, table
from archlab.reporting.search_data import SearchData, short_names
from archlab.searching.results.choices import ChoiceResult, PathResult
from archlab.searching.results.meter import in_units, search_spent

HEAD = ("choice", "tried", "best", "median", "spread", "behind", "verdict")
_LEAST = 3  # complete trials from which a range is divided
_MORE = ("complete", "runs", "tokens", "best trial")


def choice_tables(data: SearchData) -> Iterator[str]:
    """Yield the title and the table of each varied path that has a list of choices, and of each range in thirds."""
    short = short_names(data.shown_paths)
    for result in data.choices:
        rows = [("best" if row.verdict == "best" else "", _cells(row)) for row in result.choices]
        name = f"choices-{anchor(short[result.path])}"
        yield heading(title_of(result, short[result.path]))
        yield table([*HEAD, *_MORE], rows, name=name) + paragraph(_note(result), "note")
    for path in data.shown_paths:
        if rows := list(_thirds(path, data)):
            yield heading(f"{short[path]}: thirds of its range by {data.space.objective}")
            yield table(
                ["range", "tried", "complete", "best", "median", "best trial"],
                rows,
                name=f"range-{anchor(path)}",
                narrow=True,
            )


def _thirds(path: str, data: SearchData) -> Iterator[tuple[str, list[object]]]:
    """Yield the results of each third of a knob's range, of the logarithm if it is sampled so."""
    knob = knob_axis(path, path, data, data.complete)
    if not knob.is_numeric or knob.low == knob.high or len(data.complete) < _LEAST:
        return
    ends = [knob.low, *(knob.between(part / 3) for part in (1, 2)), knob.high]
    for number, (low, high) in enumerate(pairwise(ends)):
        inside = [run for run in data.trials if _is_inside(knob.place(run), low, high, is_first=number == 0)]
        done = [run for run in inside if run.state == "complete"]
        values = [run.metrics[data.space.objective] for run in done]
        best = min(done, key=lambda run: data.space.sign * run.metrics[data.space.objective], default=None)
        reached = [best.metrics[data.space.objective], statistics.median(values)] if best else [None, None]
        yield "", [f"{low:.3g} to {high:.3g}", len(inside), len(done), *reached, int(best.name) if best else None]


def _is_inside(value: float | None, low: float, high: float, *, is_first: bool) -> bool:
    return value is not None and value <= high and (value >= low if is_first else value > low)


def title_of(result: PathResult, name: str) -> str:
    """Return the title of a path's table."""
    return f"{name}: {'compared' if result.is_compared else 'choices'} by {result.objective}"


def _note(result: PathResult) -> str:
    return " ".join(f"{note[0].upper()}{note[1:]}." for note in result.notes)


ABOUT = (
    "Best, median and spread (interquartile range) are of the complete candidates, each the mean of its random seeds; "
    "behind is how much worse the best of a choice is than the best of all."
)


def _cells(row: ChoiceResult) -> list[object]:
    shown = [row.best, row.median, row.spread, row.difference]
    return [row.choice, row.tried, *shown, row.verdict, row.complete, row.runs, row.tokens, row.best_trial]


def describe_spent(data: SearchData) -> list[str]:
    """Return the used part of the search's budget, or nothing if it was not counted."""
    budget, used = data.space.study.budget, in_units(search_spent(data.study, data.folder))
    if not used["tokens"]:
        return []
    parts = [f"{used['hours']:.2f} hours", f"{used['tokens']:,.0f} tokens", f"{used['flops']:.3g} FLOPs"]
    limits = "".join(f", of a budget of {amount:g} {unit}" for unit, amount in budget.items())
    return [f"All workers together used {', '.join(parts)}{limits}."]
