"""The section of the best trial: changed values, its layers beside the base's, and its experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archlab.config.yaml_files import load_yaml
from archlab.reporting.format import brief
from archlab.reporting.html import code, paragraph, table
from archlab.reporting.pages.model_section import diagram, yaml_difference
from archlab.reporting.search_data import Run, SearchData

_FILE = "experiment.yaml"


def best_section(data: SearchData) -> list[str]:
    """Return the parts of the section."""
    if data.best is None:
        return [paragraph("No trial is complete yet.")]
    parts = [_changes(data.best, data)]
    file = data.folder / "best" / _FILE
    if file.is_file():
        base, best = base_experiment(data), load_yaml(file)
        parts.append(diagram({"base": base["model"], data.best.title: best["model"]}))
        parts.append(yaml_difference(base, best, ("base", data.best.title)))
        parts.append(code(file.read_text(encoding="utf-8"), folded="Full experiment"))
    return parts


def base_experiment(data: SearchData) -> dict[str, Any]:
    """Return the baseline's experiment as it was trained, or the base's before there is one."""
    file = data.folder / "baseline" / _FILE
    return load_yaml(file) if file.is_file() else data.space.base.resolve().resolved


def _changes(best: Run, data: SearchData) -> str:
    rows = list(_rows(best.values, data.baseline.values, data))
    return table(["knob", "base", best.title], rows, name="best-trial", narrow=True)


def _rows(own: Mapping[str, Any], base: Mapping[str, Any], data: SearchData) -> Iterator[tuple[str, list[Any]]]:
    for path in data.shown_paths:
        if path not in own:
            continue
        before = brief(base[path]) if path in base else ""
        after = brief(own[path])
        yield "same" if before == after else "", [path, before, after]
