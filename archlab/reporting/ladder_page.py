"""The report of a ladder: its rungs, forecasts beside results, and losses over compute with the laws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from archlab.errors import ArchlabError
from archlab.reporting.figures import PALETTE, scatter
from archlab.reporting.html import chart_label, code, facts, figure, page, section, table
from archlab.reporting.ladder_lines import agreement_line, forecast_cells, rung_title, target_lines
from archlab.searching.ladder.summary import LadderSummary, RungSummary, forecast_of, read_ladder
from archlab.text import shell_path


def ladder_page(folder: Path) -> str:
    """Return the report of a ladder's directory as HTML."""
    summary = read_ladder(folder)
    if summary is None:
        raise ArchlabError(f"{folder}: its first rung is not complete, so that there is nothing to report yet")
    kind = "Rehearsal of a ladder" if summary.is_rehearsal else "Ladder"
    lead = [summary.verdict, *target_lines(summary)]
    if summary.waiting:
        lead.append(summary.waiting)
    return page(f"{kind}: {summary.search}", lead, _sections(summary, folder))


def _sections(summary: LadderSummary, folder: Path) -> Iterator[str]:
    if summary.results:
        note = "FLOPs are counted, forward and backward. Lines are the laws, along the rungs' sizes and tokens."
        yield section("Loss over compute", figure(_compute_figure(summary), "compute"), note=note)
    for rung in summary.rungs:
        yield section(rung_title(rung).capitalize(), _rung_table(rung), note=agreement_line(rung))
    if summary.failed:
        yield section("Dropped out", facts(summary.failed))
    again = f"archlab search {shell_path(folder / 'search.yaml')} --out {shell_path(f'{folder}-again')}"
    yield section("Reproduce", code(f"# the same ladder from the start, in another directory\n{again}"))
    yield section("Environment", facts({**summary.machine, **summary.versions}))


def _rung_table(rung: RungSummary) -> str:
    goes_on = (rung.decision or {}).get("goes_on")
    names = [*rung.losses, *(name for name in rung.candidates if name not in rung.losses)]
    rows = []
    for name in names:
        is_on = isinstance(goes_on, list) and name in goes_on
        cells = forecast_cells(rung.losses.get(name), forecast_of(rung).get(name))
        rows.append(("best" if is_on else "", (name, *cells, "goes on" if is_on else "")))
    return table(("candidate", "loss", "forecast", "90 % interval", "error", ""), rows)


def _compute_figure(summary: LadderSummary) -> go.Figure:
    colors = dict(zip(dict.fromkeys(r.candidate for r in summary.results), PALETTE * 20, strict=False))
    traces = [trace for name, color in colors.items() for trace in _traces(summary, name, color)]
    chart = scatter(*traces)
    chart.update_xaxes(title="FLOPs of a run", type="log")
    return chart.update_yaxes(title=chart_label(f"{summary.metric}"), type="log")


def _traces(summary: LadderSummary, name: str, color: str) -> Iterator[go.Scatter]:
    # A branch repeats the steps of its trunk: its point lies where a run of its own would.
    mine = [r for r in summary.results if r.candidate == name and r.loss is not None]
    whole = [r for r in mine if r.part == 1.0]
    if not whole:
        return
    yield go.Scatter(
        x=[r.flops for r in whole],
        y=[r.loss for r in whole],
        name=chart_label(name),
        legendgroup=name,
        mode="markers",
        marker={"size": 8, "color": color},
    )
    laws = _laws(summary.fit)
    if name in laws:
        by_size = {r.params: r for r in whole}
        ends = [by_size[size] for size in sorted(by_size)]
        yield go.Scatter(
            x=[r.flops for r in ends],
            y=[_law(laws[name], r.params, r.tokens) for r in ends],
            legendgroup=name,
            showlegend=False,
            mode="lines",
            line={"color": color, "width": 1.5},
        )


def _laws(fit: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    return {found["candidate"]: found["law"] for found in (fit or {}).get("candidates", [])}


def _law(law: dict[str, float], params: float, tokens: float) -> float:
    return law["E"] + law["A"] / params ** law["a"] + law["B"] / tokens ** law["b"]
