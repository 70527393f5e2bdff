"""The page of a search."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from archlab.reporting.choices import ABOUT, choice_tables
from archlab.reporting.figures.bars import bars
from archlab.reporting.figures.chart import Figure
from archlab.reporting.figures.costs import cost_panels
from archlab.reporting.figures.curves import learning_curves
from archlab.reporting.figures.history import history
from archlab.reporting.figures.knobs import knob_panels
from archlab.reporting.figures.parallel import parallel_coordinates
from archlab.reporting.figures.runs import page_data
from archlab.reporting.format import describe_corpus
from archlab.reporting.html import code, facts, figure, page, paragraph, section
from archlab.reporting.importance import EVALUATOR, importances
from archlab.reporting.pages.best_section import best_section
from archlab.reporting.pages.search_lead import COMPRESSORS, bits_per_byte, lead
from archlab.reporting.pages.search_tables import front_table, reasons_table, trials_table
from archlab.reporting.search_data import SearchData, short_names
from archlab.searching.results.summary import SearchSummary
from archlab.text import shell_path


def search_page(data: SearchData) -> str:
    """Return the report of a search as HTML."""
    return page(f"Search: {data.name}", [], [lead(data), *_sections(data)], page_data(data))


def _sections(data: SearchData) -> Iterator[str]:
    if data.summary and (bits := bits_per_byte(data)):
        yield section(
            "Bits per byte on the validation text", figure(_bits_figure(bits)), note=_about_bits(data.summary, bits)
        )
    if (chart := history(data)) is not None:
        yield section("Trials in order", figure(chart), note=_about_history(data))
    yield section("Effect of each knob", *_knobs(data), *_choices(data))
    yield section("Importance of the knobs", *_importances(data))
    if (chart := cost_panels(data)) is not None:
        yield section("Costs and results", figure(chart, _ABOUT_COSTS), front_table(data))
    if (curves := learning_curves(data)) is not None:
        yield section("Learning curves", figure(curves[0], f"{_ABOUT_CURVES} {curves[1]}".strip()))
    yield section("Choices and results", *_coordinates(data))
    yield section("Best trial", *best_section(data))
    about_noise = f" {_ABOUT_NOISE}" if data.noise else ""
    yield section("All trials", trials_table(data), note=f"{_ABOUT_TRIALS}{about_noise}")
    if reasons := reasons_table(data):
        yield section("Not complete, and why", reasons)
    yield section("Reproduce", code("\n".join(_commands(data))))
    if environment := _environment(data):
        yield section("Environment", facts(environment))


_ABOUT_COSTS = (
    "The dotted line is the Pareto front of the two metrics: no other trial is better in both. Trials on it have their "
    "numbers beside them. Outliers on the worse side are left out of the figure, but are in the table."
)
_ABOUT_CURVES = "Pruned runs end with a ring. Point at a curve to see its trial here and in the other figures."
_ABOUT_TRIALS = (
    "A trial's name leads to its directory. Losses are those measured during training; of a trial that was pruned or "
    "is running, the last. vs. baseline is the difference of the first objective."
)


_ABOUT_NOISE = "± seeds is the standard deviation that random seeds alone give to that difference."


def _about_history(data: SearchData) -> str:
    verb = "maximized" if data.space.sign < 0 else "minimized"
    return f"{data.space.objective} is {verb}. Trials without a value or with a much worse one are at the edge."


def _knobs(data: SearchData) -> list[str]:
    found = knob_panels(data)
    if found is None:
        return [paragraph("This figure needs two complete trials, and a knob in which they differ.")]
    noise = f" Random seeds alone spread by a standard deviation of {data.noise.std:.2g}." if data.noise else ""
    note = f"Each dot is a complete trial; the dashed line or diamond is the baseline.{noise} {found[1]}"
    return [figure(found[0], note.strip())]


def _choices(data: SearchData) -> list[str]:
    tables = list(choice_tables(data))
    return [*tables, paragraph(ABOUT, "note")] if tables else []


def _coordinates(data: SearchData) -> list[str]:
    chart = parallel_coordinates(data)
    if chart is None:
        return [paragraph("This figure needs two complete trials.")]
    note = (
        "Each line is a trial, in a stronger color the better its first objective. Drag along an axis to keep the "
        "lines that pass there. Trials that ended early have a place beyond the objectives, and a dash stands for a "
        "knob that a trial does not have."
    )
    return [figure(chart, note)]


def _bits_figure(bits: Mapping[str, float]) -> Figure:
    kinds = {"best trial": "best", "baseline": "base"}
    colors = [kinds.get(name, "complete") for name in bits]
    return bars("bits", "bits per byte of models and compressors", bits, colors, label="bits per byte, less is better")


def _about_bits(summary: SearchSummary, bits: Mapping[str, float]) -> str:
    others = ", ".join(f"{bits[name]:.3f} for {name}" for name in COMPRESSORS if name in bits)
    return (
        f"All on the same {summary.validation_bytes:,} bytes of validation text. Each model was trained on "
        f"{summary.tokens_per_trial:,} tokens of the training split of the same corpus; its weights are not counted. "
        f"The compressors ({others}) compress the validation text as one whole file at their strongest settings, "
        "without training data. The best trial was selected on this split, so its value is slightly optimistic."
    )


def _importances(data: SearchData) -> list[str]:
    by_name, problem = importances(data)
    if problem:
        shown = " The figure above shows every trial, and tables of choices best and median."
        return [paragraph(f"{problem}{shown if knob_panels(data) is not None else ''}", "note")]
    shares = {_knob_of(name, data): share for name, share in by_name.items()}
    note = (
        f"{EVALUATOR} (Optuna's evaluator: which knobs distinguish the best tenth of the trials from the others) on "
        f"{data.space.objective}, from {len(data.complete)} complete trials. A knob that only some trials have is "
        "judged by these alone, and by itself for each choice that it belongs to."
    )
    chart = bars("importances", "importance of each knob", shares, ["c0"] * len(shares), label=_SHARE, shown="{:.2f}")
    return [figure(chart, note)]


_SHARE = "share of importance"


def _knob_of(name: str, data: SearchData) -> str:
    """Return a knob by its short name, from Optuna's, which has the choices above it and a hash of its own choices."""
    name = name.partition("{")[0]
    path, choices = re.sub(r"=[^.\[\]]*", "", name), re.findall(r"=([^.\[\]]*)", name)
    short = short_names(data.shown_paths).get(path)
    return name if short is None else " of ".join([short, *reversed(choices)])


def _commands(data: SearchData) -> list[str]:
    search, best = data.folder / "search.yaml", data.folder / "best" / "experiment.yaml"
    again = [
        "# the same search from the start, in another directory",
        f"archlab search {shell_path(search)} --out {shell_path(f'{data.folder}-again')}",
    ]
    if not best.is_file():
        return again
    alone = f"archlab train {shell_path(best)} --out {shell_path(f'{data.folder}-again-best')}"
    return [*again, "# the best trial alone", alone]


def _environment(data: SearchData) -> dict[str, Any]:
    summary = data.summary
    if summary is None:
        return {}
    return {**describe_corpus(summary.corpus), **summary.machine, **summary.versions}
