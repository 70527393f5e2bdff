"""The tables of `archlab fit`, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from archlab.cli.terminal import foreign, paragraph

if TYPE_CHECKING:
    from archlab.planning.backtest import Backtest, RankAgreement
    from archlab.planning.fit import Fit


def fit_report(fit: Fit) -> Group:
    """Return forecasts, laws, backtest and rankings."""
    parts: list[RenderableType] = [_forecasts(fit), "", _laws(fit), ""]
    parts += [_held_out(fit.backtest), ""] if fit.backtest.held_out else []
    parts += [paragraph(line) for line in _rankings(fit.backtest)]
    if fit.decision and fit.decision.advice:
        parts += ["", Text(fit.decision.advice, "bold yellow")]
    parts += [paragraph(f"note: {note}") for note in (*fit.notes, *fit.backtest.notes)]
    return Group(*parts)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(box=None, title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _forecasts(fit: Fit) -> Table:
    title = f"loss at {fit.target.params:g} params and {fit.target.tokens:g} tokens, 90 % intervals"
    table = _table(title, "candidate", "forecast", "mean over seeds", "a single run", "is best")
    for one in fit.candidates:
        best = f"{one.probability_best:.0%}"
        table.add_row(
            foreign(one.candidate), _number(one.forecast), _range(one.interval), _range(one.run_interval), best
        )
    return table


def _laws(fit: Fit) -> Table:
    title = "E + A/params^a + B/tokens^b" + (", a and b shared" if fit.shared_exponents else "")
    table = _table(title, "candidate", "E", "A", "a", "B", "b")
    for one in fit.candidates:
        law = one.law
        table.add_row(foreign(one.candidate), *(_number(value) for value in (law.E, law.A, law.a, law.B, law.b)))
        table.add_row("", *(_range(one.law_interval[name], 3) for name in ("E", "A", "a", "B", "b")), style="dim")
    return table


def _held_out(backtest: Backtest) -> Table:
    title = "backtest: each one's largest size, forecast from the smaller ones"
    table = _table(title, "candidate", "params", "tokens", "loss", "forecast", "90 % interval", "error", "inside")
    for one in backtest.held_out:
        cells = [f"{one.params:.3g}", f"{one.tokens:.3g}", _number(one.loss), _number(one.forecast)]
        inside = "yes" if one.is_inside else "no"
        table.add_row(foreign(one.candidate), *cells, _range(one.interval), f"{one.relative_error:+.1%}", inside)
    return table


def _rankings(backtest: Backtest) -> Iterator[str]:
    if backtest.ranking:
        yield f"plain ranking at the largest rung: {', '.join(backtest.ranking)}"
    for rung in backtest.rungs:
        yield f"from {rung.small:.3g} to {rung.large:.3g} params: {_agreement(rung.agreement)}"
    if backtest.forecast_agreement:
        yield f"the largest rung as its forecasts rank it: {_agreement(backtest.forecast_agreement)}"


def _agreement(agreement: RankAgreement) -> str:
    share = f"{agreement.decision_accuracy:.0%} of {agreement.pairs} pair{'s' * (agreement.pairs > 1)}"
    return f"{share} in the same order, Spearman {agreement.spearman:.2f}"


def _range(interval: tuple[float, float], digits: int = 4) -> str:
    return "-".join(_number(value, digits) for value in interval)


def _number(value: float, digits: int = 4) -> str:
    """Return a number with the given number of digits, zeros at its end included, so that columns line up."""
    text = f"{value:#.{digits}g}"
    return text.removesuffix(".") if "e" not in text else f"{value:.{digits}g}"
