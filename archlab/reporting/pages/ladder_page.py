"""The page of a ladder: its rungs, forecasts beside results, and losses over compute with the laws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from archlab.errors import ArchlabError
from archlab.reporting.figures.laws import law_panels
from archlab.reporting.figures.rungs import forecast_panels, forecasts_of_target, probabilities, ranks
from archlab.reporting.html import Link, code, facts, figure, heading, key_figures, page, paragraph, section, table
from archlab.reporting.ladder_lines import agreement_line, forecast_cells, rung_title, target_lines
from archlab.searching.ladder.results import RunResult
from archlab.searching.ladder.summary import LadderSummary, RungSummary, forecast_of, read_ladder
from archlab.text import shell_path


def ladder_page(folder: Path) -> str:
    """Return the report of a ladder's directory as HTML."""
    summary = read_ladder(folder)
    if summary is None:
        raise ArchlabError(f"{folder}: its first rung is not complete, so that there is nothing to report yet")
    kind = "Rehearsal of a ladder" if summary.is_rehearsal else "Ladder"
    return page(f"{kind}: {summary.search}", [], [_lead(summary), *_sections(summary, folder)])


def _lead(summary: LadderSummary) -> str:
    is_open = summary.verdict.startswith("stop") or summary.is_rehearsal
    is_name = summary.verdict.split(" ")[0] in {run.candidate for run in summary.results}
    verdict = f"{summary.verdict if is_name else _capital(summary.verdict)}."
    # The figures of the target have a table of their own.
    lines = [line for line in target_lines(summary) if not line.startswith(" ")]
    lines += [summary.waiting] if summary.waiting else []
    notes = "".join(paragraph(f"{_capital(line)}.", "note") for line in lines)
    return paragraph(verdict, "lead warning" if is_open else "lead") + key_figures(_figures(summary)) + notes


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _figures(summary: LadderSummary) -> Iterator[tuple[str, str, str]]:
    trained = [rung for rung in summary.rungs if rung.losses]
    yield "rungs", f"{len(trained)} of {len(summary.rungs)}", "trained"
    yield "candidates", str(len({run.candidate for run in summary.results})), f"{len(summary.goes_on)} left"
    yield "runs", str(len(summary.results)), f"{sum(run.loss is None for run in summary.results)} without a loss"
    yield "FLOPs", f"{summary.flops:.3g}", "of all runs, forward and backward"


def _sections(summary: LadderSummary, folder: Path) -> Iterator[str]:
    if (laws := law_panels(summary)) is not None:
        yield section("Loss over compute", figure(laws, _ABOUT_LAWS if summary.fit is not None else _ABOUT_MEANS))
    if (forecasts := forecast_panels(summary)) is not None:
        yield section("Forecasts and results", figure(forecasts, _ABOUT_FORECASTS))
    if targets := forecasts_of_target(summary):
        yield section("Target", _target_table(targets))
    if (chances := probabilities(summary)) is not None:
        yield section("Probability of being best", figure(chances))
    if (order := ranks(summary)) is not None:
        yield section("Rank by rung", figure(order, "A line that ends early is a candidate that did not continue."))
    yield section("Rungs", *(part for rung in summary.rungs for part in _rung(rung, _onward(rung, summary))))
    if summary.failed:
        yield section("Dropped out", facts(summary.failed))
    yield section("All runs", _runs_table(summary, folder))
    again = f"archlab search {shell_path(folder / 'search.yaml')} --out {shell_path(f'{folder}-again')}"
    yield section("Reproduce", code(f"# the same ladder from the start, in another directory\n{again}"))
    yield section("Environment", facts({**summary.machine, **summary.versions}))


_ABOUT_LAWS = (
    "FLOPs are counted, forward and backward. Lines are the laws L(N, D) = E + A/N^a + B/D^b along the rungs' sizes "
    "and tokens, bands their uncertainty (90 %). A dashed line joins means where no law was fitted."
)
_ABOUT_MEANS = (
    "FLOPs are counted, forward and backward. Dashed lines join the means over random seeds; no law was fitted."
)
_ABOUT_FORECASTS = (
    "Each forecast was written before its rung was trained. The bar is its 90 % interval of the mean over seeds."
)


def _target_table(targets: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["candidate", "forecast", "from (90 %)", "to (90 %)", "probability of being best"]
    rows = [
        ("", [name, found["forecast"], *found["interval"], found["probability_best"]])
        for name, found in targets.items()
    ]
    return table(head, rows, name="target", narrow=True)


def _onward(rung: RungSummary, summary: LadderSummary) -> str:
    """Return the table's text for a candidate that continues from a rung; nothing if the ladder ends with it."""
    if rung is not summary.rungs[-1]:
        return "continues"
    return "continues to the target" if summary.target is not None else ""


def _rung(rung: RungSummary, onward: str) -> Iterator[str]:
    yield heading(_capital(rung_title(rung)))
    yield _rung_table(rung, onward)
    if note := agreement_line(rung):
        yield paragraph(f"{_capital(note)}.", "note")


def _rung_table(rung: RungSummary, onward: str) -> str:
    names = [*rung.losses, *(name for name in rung.candidates if name not in rung.losses)]
    has_forecast = bool(forecast_of(rung))
    rows = []
    for name in names:
        measured, *forecast = forecast_cells(rung.losses.get(name), forecast_of(rung).get(name))
        decision = _decision(name, rung, onward)
        cells = [name, measured, *(forecast if has_forecast else []), *([decision] if onward else [])]
        rows.append(("best" if onward and decision == onward else "", cells))
    head = ["candidate", "loss", *(_OF_FORECAST if has_forecast else []), *(["decision"] if onward else [])]
    return table(head, rows, name=f"rung-{rung.number}", narrow=True)


_OF_FORECAST = ("forecast", "90 % interval", "error")


def _decision(name: str, rung: RungSummary, onward: str) -> str:
    if rung.decision is None:
        return ""
    goes_on: Any = rung.decision.get("goes_on") or []
    dropped: Any = rung.decision.get("dropped") or {}
    return onward if name in goes_on else str(dropped.get(name) or "does not continue")


def _runs_table(summary: LadderSummary, folder: Path) -> str:
    has_reason = any(run.reason for run in summary.results)
    has_parts = any(run.part != 1.0 for run in summary.results)
    of_run = ["run", "candidate", "rung", "seed", *(["part"] if has_parts else [])]
    head = [*of_run, "params", "tokens", "FLOPs", summary.metric, *(["reason"] if has_reason else [])]
    rows = [("", _run(run, folder, has_parts, has_reason)) for run in summary.results]
    return table(head, rows, name="runs")


def _run(run: RunResult, folder: Path, has_parts: bool, has_reason: bool) -> list[Any]:
    branch = "" if run.part == 1.0 else f"_at_{run.part:g}"
    title, place = f"rung {run.rung}, seed {run.seed}", f"rungs/{run.rung}/{run.candidate}/seed_{run.seed}{branch}"
    name: Any = Link(title, f"{quote(place)}/") if (folder / place).is_dir() else title
    cells = [name, run.candidate, run.rung, run.seed, *([run.part] if has_parts else [])]
    return [*cells, run.params, run.tokens, run.flops, run.loss, *([run.reason] if has_reason else [])]
