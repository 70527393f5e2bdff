"""The figures of a ladder as text, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.reporting.format import format_amount
from archlab.searching.ladder.summary import LadderSummary, RungSummary


def rung_title(rung: RungSummary) -> str:
    """Return the title of a rung's table."""
    waits = " (not trained here)" if rung.waiting else ""
    size = f"{format_amount(rung.params)} parameters without embeddings, {format_amount(rung.tokens)} tokens"
    return f"rung {rung.number}: {size}{waits}"


def forecast_cells(loss: float | None, figures: Mapping[str, Any] | None) -> tuple[str, str, str, str]:
    """Return the result, its forecast with interval, and the relative error; one outside the interval is marked."""
    measured = "" if loss is None else f"{loss:.4f}"
    if not figures:
        return measured, "", "", ""
    low, high = figures["interval"]
    error = "" if loss is None else f"{figures['forecast'] / loss - 1:+.2%}"
    missed = "" if loss is None or low <= loss <= high else " miss"
    return measured, f"{figures['forecast']:.4f}", f"{low:.4f} .. {high:.4f}", f"{error}{missed}"


def agreement_line(rung: RungSummary) -> str:
    """Return how far the ranking of the rung before held here, in one line, or nothing."""
    found = rung.agreement
    if not found:
        return ""
    return (
        f"ranking of the rung before: {found['decision_accuracy']:.0%} of {found['pairs']:.0f} pairs right, "
        f"Spearman {found['spearman']:.2f}"
    )


def target_lines(summary: LadderSummary) -> list[str]:
    """Return the forecast of the target, the plain ranking beside it, and the backtest."""
    lines = []
    if summary.target is not None:
        lines.append(
            f"target: {_amount_of(summary, 'params')} parameters, {_amount_of(summary, 'tokens')} tokens, "
            f"by {summary.target['method']}"
        )
        candidates = summary.target["candidates"]
        for name, found in candidates.items() if isinstance(candidates, dict) else ():
            lines.append(f"  {name}: {_figures(found)}")
    if summary.problem:
        lines.append(f"no law: {summary.problem}")
    if summary.ranking:
        lines.append(f"plain ranking at the largest rung: {', '.join(summary.ranking)}")
    return lines + backtest_lines(summary.fit)


def _amount_of(summary: LadderSummary, name: str) -> str:
    value: Any = (summary.target or {}).get(name)
    return format_amount(float(value))


def _figures(found: Any) -> str:
    low, high = found["interval"]
    return f"{found['forecast']:.4f} ({low:.4f} .. {high:.4f}), best with probability {found['probability_best']:.0%}"


def backtest_lines(fit: Mapping[str, Any] | None) -> list[str]:
    """Return the forecast of the largest rung by the smaller rungs' law, as one line."""
    held = (fit or {}).get("backtest", {}).get("held_out", [])
    if not held:
        return []
    inside = sum(one["is_inside"] for one in held)
    worst = max(abs(one["relative_error"]) for one in held)
    return [f"largest rung left out: {inside} of {len(held)} inside their 90 % intervals, errors up to {worst:.2%}"]
