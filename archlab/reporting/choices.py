"""The choices of a search side by side: what each was given, what it reached, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Iterator

from archlab.reporting.data import SearchData, short_names
from archlab.reporting.html import section, table
from archlab.searching.results.choices import ChoiceResult, PathResult
from archlab.searching.results.meter import in_units, search_spent

HEAD = ("choice", "tried", "best", "median", "spread", "behind", "verdict")
_MORE = ("complete", "runs", "tokens", "best trial")


def choice_sections(data: SearchData) -> Iterator[str]:
    """Yield a table for each varied path that has a list of choices."""
    short = short_names(data.shown_paths)
    for result in data.choices:
        rows = [("best" if row.verdict == "best" else "", _cells(row)) for row in result.choices]
        yield section(title_of(result, short[result.path]), table([*HEAD, *_MORE], rows), note=_note(result))


def title_of(result: PathResult, name: str) -> str:
    """Return the title of a path's table."""
    return f"{name}: {'compared' if result.is_compared else 'choices'} by {result.objective}"


def _note(result: PathResult) -> str:
    about = (
        "best, median and spread (interquartile range) are of the complete candidates, each the mean of its random "
        "seeds; behind is how much worse the best of a choice is than the best of all."
    )
    return ". ".join([*result.notes, about])


def _cells(row: ChoiceResult) -> list[object]:
    shown = [row.best, row.median, row.spread, row.difference]
    return [row.choice, row.tried, *shown, row.verdict, row.complete, row.runs, row.tokens, row.best_trial]


def describe_spent(data: SearchData) -> list[str]:
    """Return what the search has used, and of which budget, or nothing where that was not counted."""
    budget, used = data.space.study.budget, in_units(search_spent(data.study, data.folder))
    if not used["tokens"]:
        return []
    parts = [f"{used['hours']:.2f} hours", f"{used['tokens']:,.0f} tokens", f"{used['flops']:.3g} FLOPs"]
    limits = "".join(f", of a budget of {amount:g} {unit}" for unit, amount in budget.items())
    return [f"All workers together used {', '.join(parts)}{limits}."]
