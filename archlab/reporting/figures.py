"""The plotly figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from archlab.reporting.data import Run, SearchData, short_names
from archlab.reporting.html import chart_label
from archlab.text import shorten, visible

ACCENT, BASELINE, QUIET, OTHER, FAINT = "#2f6f5e", "#b5652b", "#b9c0c6", "#5b7f95", "#dde2e5"
PALETTE = (ACCENT, BASELINE, OTHER, "#8a5a83", "#a08a2f", "#4f6fb0", "#9c4646", "#6b6b6b")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_MISSING = "–"
_TICK = 18  # characters that the margin beside the first axis takes


def bars(values: Mapping[str, float], colors: Sequence[str], title: str, *, digits: int = 3) -> go.Figure:
    """Return a horizontal bar chart, the first bar on top."""
    names = [chart_label(name) for name in values]
    texts = [f"{value:.{digits}f}" for value in values.values()]
    bar = go.Bar(x=list(values.values()), y=names, orientation="h", marker_color=list(colors), text=texts)
    bar.update(textposition="outside", cliponaxis=False, hoverinfo="skip", width=0.62)
    figure = _figure(bar, height=90 + 42 * len(names))
    figure.update_yaxes(autorange="reversed", ticksuffix="  ")
    return figure.update_xaxes(title=chart_label(title), rangemode="tozero")


def learning_curves(data: SearchData) -> go.Figure:
    """Return every trial's validation loss by step, the best trial and the baseline highlighted."""
    lines = [_curve(trial, data) for trial in data.trials if trial.curve]
    if data.baseline.curve:
        lines.append(_line(data.baseline, "baseline", color=BASELINE, width=2.5, dash="dash"))
    figure = _figure(*lines, height=420)
    figure.update_layout(hovermode="closest", showlegend=True, legend={"orientation": "h", "y": -0.2})
    return figure.update_xaxes(title="step").update_yaxes(title="validation loss, nats per token")


def _curve(trial: Run, data: SearchData) -> go.Scatter:
    if trial.name == str(data.best_trial):
        return _line(trial, f"trial {trial.name} (best)", color=ACCENT, width=3.5)
    color = QUIET if trial.state != "complete" else OTHER
    return _line(trial, f"trial {trial.name}", color=color, width=1.3)


def _line(run: Run, name: str, *, color: str, width: float, dash: str = "solid") -> go.Scatter:
    steps, losses = zip(*run.curve, strict=True)
    short = short_names(list(run.values))
    choices = "<br>".join(chart_label(f"{short[path]}: {brief(value)}") for path, value in run.values.items())
    return go.Scatter(
        x=steps,
        y=losses,
        name=chart_label(name),
        mode="lines+markers",
        line={"color": color, "width": width, "dash": dash},
        marker={"size": 5},
        hovertemplate=f"<b>{chart_label(name)}</b> {run.state}<br>step %{{x}}: %{{y:.4f}}<br>{choices}<extra></extra>",
    )


def parallel_coordinates(data: SearchData) -> go.Figure:
    """Return one line per complete trial, from its values to its first objective."""
    runs, objective = data.complete, data.space.objective
    short = short_names(data.shown_paths)
    axes = [_axis(short[path], [run.values.get(path, _MISSING) for run in runs]) for path in data.shown_paths]
    results = [run.metrics[objective] for run in runs]
    axes.append({"label": chart_label(objective), "values": results})
    maximize = data.space.objectives[objective] == "maximize"
    scale = [[0, FAINT], [1, ACCENT]] if maximize else [[0, ACCENT], [1, FAINT]]
    line = {"color": results, "colorscale": scale, "showscale": False}
    return _figure(go.Parcoords(line=line, dimensions=axes), height=430).update_layout(margin={"l": 120, "t": 60})


def _axis(label: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return an axis of numbers, or of the choices that occur in the trials."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {"label": chart_label(label), "values": list(values)}
    names = sorted({brief(value) for value in values})
    # Plotly reads HTML in the label of such an axis, and none at its ticks.
    ticks = {"tickvals": list(range(len(names))), "ticktext": [shorten(visible(name), _TICK) for name in names]}
    margins = {"range": [-0.1, max(len(names) - 0.9, 0.1)]}
    return {"label": chart_label(label), "values": [names.index(brief(value)) for value in values], **ticks, **margins}


def pareto(data: SearchData) -> go.Figure:
    """Return the complete trials by their first two objectives, the Pareto front connected."""
    x, y = list(data.space.objectives)[:2]
    front = {str(number) for number in (data.summary.pareto if data.summary else [])}
    best = sorted((run for run in data.complete if run.name in front), key=lambda run: run.metrics[x])
    rest = [run for run in data.complete if run.name not in front]
    traces = [
        _points(rest, (x, y), "other trials", color=QUIET, mode="markers"),
        _points(best, (x, y), "Pareto front", color=ACCENT, mode="lines+markers"),
    ]
    figure = _figure(*traces, height=420).update_layout(showlegend=True)
    titles = {axis: chart_label(f"{axis} ({data.space.objectives[axis]})") for axis in (x, y)}
    return figure.update_xaxes(title=titles[x]).update_yaxes(title=titles[y])


def _points(runs: Sequence[Run], axes: tuple[str, str], name: str, *, color: str, mode: str) -> go.Scatter:
    x, y = axes
    texts = [chart_label(axis) for axis in axes]
    return go.Scatter(
        x=[run.metrics[x] for run in runs],
        y=[run.metrics[y] for run in runs],
        text=[f"trial {run.name}" for run in runs],
        name=name,
        mode=mode,
        marker={"size": 10, "color": color},
        line={"color": color, "shape": "hv", "dash": "dot"},
        hovertemplate=f"%{{text}}<br>{texts[0]} %{{x}}<br>{texts[1]} %{{y}}<extra></extra>",
    )


def run_curves(training: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]]) -> go.Figure:
    """Return a run's training and validation loss by step."""
    curves = (("training", training, QUIET, "lines"), ("validation", validation, ACCENT, "lines+markers"))
    lines = [
        go.Scatter(x=[s for s, _ in curve], y=[v for _, v in curve], name=name, mode=mode, line={"color": color})
        for name, curve, color, mode in curves
    ]
    figure = _figure(*lines, height=420).update_layout(showlegend=True)
    return figure.update_xaxes(title="step").update_yaxes(title="loss, nats per token")


def scatter(*traces: go.Scatter) -> go.Figure:
    """Return a figure of named traces with a legend."""
    return _figure(*traces, height=460).update_layout(showlegend=True)


def brief(value: Any) -> str:
    """Return a value as text for a table or an axis."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {brief(entry)}" for key, entry in value.items() if key != "type")
        return f"{value['type']} ({rest})" if "type" in value and rest else str(value.get("type", rest))
    if isinstance(value, list):
        return ", ".join(brief(entry) for entry in value)
    return "null" if value is None else str(value)


def _figure(*traces: Any, height: int) -> go.Figure:
    figure = go.Figure(list(traces))
    figure.update_layout(
        template="plotly_white",
        height=height,
        showlegend=False,
        font={"family": _FONT, "size": 13, "color": "#24292e"},
        margin={"l": 20, "r": 50, "t": 20, "b": 20},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure.update_xaxes(automargin=True).update_yaxes(automargin=True)
