"""Reports: one HTML file, readable offline, of a search or of a training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from archlab.config.yaml_files import load_yaml
from archlab.errors import ArchlabError
from archlab.reporting.choices import choice_sections, describe_spent
from archlab.reporting.data import Run, SearchData, importances, read_search, short_names
from archlab.reporting.figures import (
    ACCENT,
    BASELINE,
    OTHER,
    QUIET,
    bars,
    brief,
    learning_curves,
    parallel_coordinates,
    pareto,
)
from archlab.reporting.format import describe_corpus, format_metrics
from archlab.reporting.html import State, code, facts, figure, page, section, table
from archlab.reporting.ladder_page import ladder_page
from archlab.reporting.run_page import run_page
from archlab.searching.results.summary import SearchSummary
from archlab.storage.files import write_text
from archlab.storage.locks import lock
from archlab.storage.targets import require_report_target
from archlab.text import shell_path

COMPRESSORS = ("xz", "bz2", "zlib")
_COLUMNS = {
    "params": "params",
    "val_loss": "val loss",
    "val_bpb": "val bpb",
    "val_accuracy": "val accuracy",
    "tokens_per_s": "tokens/s",
}


def report(folder: Path) -> Path:
    """Write report.html into the directory of a search or a run, and return its path; raise ArchlabError for others."""
    require_report_target(folder / "report.html")
    if (folder / "search.yaml").is_file():
        # Read under the lock too: the last of several workers to write has seen the trials of all others.
        with lock(folder / ".report.lock", wait=True):
            is_ladder = load_yaml(folder / "search.yaml").get("rungs") is not None
            write_text(folder / "report.html", ladder_page(folder) if is_ladder else _search_page(read_search(folder)))
        return folder / "report.html"
    if (folder / "experiment.yaml").is_file() and (folder / "metrics.jsonl").is_file():
        text = run_page(folder)
    else:
        raise ArchlabError(f"{folder}: holds neither a search (search.yaml) nor a run (experiment.yaml, metrics.jsonl)")
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _search_page(data: SearchData) -> str:
    return page(f"Search: {data.name}", _lead(data), _sections(data))


def _sections(data: SearchData) -> Iterator[str]:
    if data.summary and (bits := _bits_per_byte(data)):
        chart = figure(_bits_figure(bits), "bits")
        yield section("Bits per byte on the validation text", chart, note=_about_bits(data.summary))
    yield from choice_sections(data)
    yield section("Trials", _trials(data))
    if data.baseline.curve or any(trial.curve for trial in data.trials):
        yield section("Learning curves", figure(learning_curves(data), "curves"))
    yield section("Choices and results", *_coordinates(data))
    yield _importances(data)
    if len(data.space.objectives) > 1 and len(data.complete) > 1:
        yield section("Trade-off", figure(pareto(data), "pareto"))
    yield section("Best trial", *_best_trial(data))
    yield section("Reproduce", code("\n".join(_commands(data))))
    yield section("Environment", facts(_environment(data)))


def _lead(data: SearchData) -> list[str]:
    counts: dict[str, int] = {}
    for trial in data.trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none so far"
    return [_headline(data), f"Trials: {states}. Objectives: {_objectives(data)}.", *describe_spent(data)]


def _objectives(data: SearchData) -> str:
    return ", ".join(f"{direction} {metric}" for metric, direction in data.space.objectives.items())


def _headline(data: SearchData) -> str:
    bits = _bits_per_byte(data)
    best, baseline = bits.get("best trial"), bits.get("baseline")
    summary = data.summary.best_trial if data.summary else None
    if best is None and summary:
        return f"The best trial, number {summary.trial}: {format_metrics(summary.validation)} on the validation split."
    if best is None:
        return "No trial has been completed." if data.summary else "The search has not ended; this is its state now."
    compared = f", compared with {baseline:.3f} for the baseline at the same budget" if baseline is not None else ""
    others = [f"{bits[name]:.3f} for {name}" for name in COMPRESSORS if name in bits]
    also = f"; compressors: {', '.join(others)}" if others else ""
    return f"The best trial, number {data.best_trial}, needs {best:.3f} bits per byte{compared}{also}."


def _bits_per_byte(data: SearchData) -> dict[str, float]:
    """Return bits per byte on the validation split, of the models and the compressors."""
    if data.summary is None:
        return {}
    models = {"best trial": data.summary.best_trial, "baseline": data.summary.baseline}
    bits = {name: model.validation["bpb"] for name, model in models.items() if model and "bpb" in model.validation}
    compressors = data.summary.compressors
    return bits | {name: compressors[name] for name in COMPRESSORS if name in compressors}


def _bits_figure(bits: Mapping[str, float]) -> go.Figure:
    colors = {"best trial": ACCENT, "baseline": BASELINE}
    return bars(bits, [colors.get(name, QUIET) for name in bits], "bits per byte (lower is better)")


def _about_bits(summary: SearchSummary) -> str:
    return (
        f"All on the same {summary.validation_bytes:,} bytes of validation text. Each model was trained on "
        f"{summary.tokens_per_trial:,} tokens of the training split of the same corpus; its weights are not counted. "
        "The compressors compress the validation text as one whole file at their strongest settings, without training "
        "data. The best trial was selected on this split, so its value is slightly optimistic."
    )


def _trials(data: SearchData) -> str:
    short = short_names(data.shown_paths)
    runs = (data.baseline, *data.trials)
    common = {name: title for name, title in _COLUMNS.items() if any(name in run.metrics for run in runs)}
    columns = common | {name: name for name in data.space.objectives if name not in common}
    head = ["trial", "state", *short.values(), *columns.values(), "reason"]
    rows = [_row(run, data, list(columns)) for run in runs]
    return table(head, rows)


def _row(run: Run, data: SearchData, columns: list[str]) -> tuple[str, list[Any]]:
    best = run.name == str(data.best_trial)
    choices = [brief(run.values[path]) if path in run.values else "" for path in data.shown_paths]
    metrics = [run.metrics.get(name) for name in columns]
    return "best" if best else run.name, [run.name, State(run.state), *choices, *metrics, run.reason]


def _coordinates(data: SearchData) -> list[str]:
    if len(data.complete) < 2:
        return ["<p>This figure needs two complete trials.</p>"]
    return [figure(parallel_coordinates(data), "coordinates")]


def _importances(data: SearchData) -> str:
    title = "Importance of the knobs"
    by_name, problem = importances(data)
    if problem:
        return section(title, note=problem)
    shares = {name.partition("{")[0]: share for name, share in by_name.items()}
    note = (
        f"PED-ANOVA on {data.space.objective}, from {len(data.complete)} complete trials; with few trials it is "
        "only an indication. Knobs that only some trials have are left out."
    )
    chart = bars(shares, [OTHER] * len(shares), "share of importance", digits=2)
    return section(title, figure(chart, "importances"), note=note)


def _best_trial(data: SearchData) -> list[str]:
    file = data.folder / "best" / "experiment.yaml"
    if not file.is_file():
        return ["<p>No trial is complete yet.</p>"]
    best = data.summary.best_trial if data.summary else None
    values = best.values if best else {}
    return [
        facts({path: brief(value) for path, value in values.items()}),
        code(file.read_text(encoding="utf-8"), folded="Full experiment"),
    ]


def _commands(data: SearchData) -> list[str]:
    search, best = data.folder / "search.yaml", data.folder / "best" / "experiment.yaml"
    return [
        "# the same search from the start, in another directory",
        f"archlab search {shell_path(search)} --out {shell_path(f'{data.folder}-again')}",
        "# the best trial alone",
        f"archlab train {shell_path(best)} --out {shell_path(f'{data.folder}-again-best')}",
    ]


def _environment(data: SearchData) -> dict[str, Any]:
    summary = data.summary
    if summary is None:
        return {}
    return {**describe_corpus(summary.corpus), **summary.machine, **summary.versions}
