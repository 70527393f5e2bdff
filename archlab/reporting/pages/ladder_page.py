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
    verdict = f"{summary.verdict[0].upper()}{summary.verdict[1:]}."
    # The figures of the target have a table of their own.
    lines = [line for line in target_lines(summary) if not line.startswith(" ")]
    lines += [summary.waiting] if summary.waiting else []
    notes = "".join(paragraph(f"{line[0].upper()}{line[1:]}.", "note") for line in lines)
    return paragraph(verdict, "lead warning" if is_open else "lead") + key_figures(_figures(summary)) + notes


def _figures(summary: LadderSummary) -> Iterator[tuple[str, str, str]]:
    trained = [rung for rung in summary.rungs if rung.losses]
    yield "rungs", f"{len(trained)} of {len(summary.rungs)}", "trained"
    yield "candidates", str(len({run.candidate for run in summary.results})), f"{len(summary.goes_on)} go on"
    yield "runs", str(len(summary.results)), f"{sum(run.loss is None for run in summary.results)} without a loss"
    yield "FLOPs", f"{summary.flops:.3g}", "of all runs, forward and backward"


def _sections(summary: LadderSummary, folder: Path) -> Iterator[str]:
    if (laws := law_panels(summary)) is not None:
        yield section("Loss over compute", figure(laws, _ABOUT_LAWS))
    if (forecasts := forecast_panels(summary)) is not None:
        yield section("Forecasts and what came out", figure(forecasts, _ABOUT_FORECASTS))
    if targets := forecasts_of_target(summary):
        yield section("Target", _target_table(targets))
    if (chances := probabilities(summary)) is not None:
        yield section("Probability of being best", figure(chances))
    if (order := ranks(summary)) is not None:
        yield section("Rank by rung", figure(order, "A line that ends early is a candidate that did not go on."))
    yield section("Rungs", *(part for rung in summary.rungs for part in _rung(rung)))
    if summary.failed:
        yield section("Dropped out", facts(summary.failed))
    yield section("All runs", _runs_table(summary, folder))
    again = f"archlab search {shell_path(folder / 'search.yaml')} --out {shell_path(f'{folder}-again')}"
    yield section("Reproduce", code(f"# the same ladder from the start, in another directory\n{again}"))
    yield section("Environment", facts({**summary.machine, **summary.versions}))


_ABOUT_LAWS = (
    "FLOPs are counted, forward and backward. Lines are the laws L(N, D) = E + A/N^a + B/D^b along the rungs' sizes "
    "and tokens, bands what is left open of them (90 %). A dashed line joins means where no law was fitted."
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


def _rung(rung: RungSummary) -> Iterator[str]:
    yield heading(rung_title(rung).capitalize())
    yield _rung_table(rung)
    if note := agreement_line(rung):
        yield paragraph(f"{note[0].upper()}{note[1:]}.", "note")


def _rung_table(rung: RungSummary) -> str:
    goes_on = (rung.decision or {}).get("goes_on")
    dropped: Any = (rung.decision or {}).get("dropped") or {}
    names = [*rung.losses, *(name for name in rung.candidates if name not in rung.losses)]
    rows = []
    for name in names:
        is_on = isinstance(goes_on, list) and name in goes_on
        cells = forecast_cells(rung.losses.get(name), forecast_of(rung).get(name))
        rows.append(("best" if is_on else "", (name, *cells, "goes on" if is_on else dropped.get(name, ""))))
    head = ("candidate", "loss", "forecast", "90 % interval", "error", "decision")
    return table(head, rows, name=f"rung-{rung.number}", narrow=True)


def _runs_table(summary: LadderSummary, folder: Path) -> str:
    has_reason = any(run.reason for run in summary.results)
    head = ["run", "candidate", "rung", "seed", "part", "params", "tokens", "FLOPs", summary.metric]
    rows = [("", _run(run, folder, has_reason)) for run in summary.results]
    return table([*head, *(["reason"] if has_reason else [])], rows, name="runs")


def _run(run: RunResult, folder: Path, has_reason: bool) -> list[Any]:
    branch = "" if run.part == 1.0 else f"_at_{run.part:g}"
    title, place = f"rung {run.rung}, seed {run.seed}", f"rungs/{run.rung}/{run.candidate}/seed_{run.seed}{branch}"
    name: Any = Link(title, f"{quote(place)}/") if (folder / place).is_dir() else title
    cells = [name, run.candidate, run.rung, run.seed, run.part, run.params, run.tokens, run.flops, run.loss]
    return [*cells, *([run.reason] if has_reason else [])]
