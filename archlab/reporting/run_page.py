"""The report of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.config.experiment import load
from archlab.modeling.cost import estimate_cost
from archlab.reporting.data import curve_of
from archlab.reporting.figures import run_curves
from archlab.reporting.format import describe_corpus, format_metrics
from archlab.reporting.html import code, facts, figure, page, section
from archlab.storage.provenance import read_provenance
from archlab.storage.run_identity import require_model_of, require_unedited
from archlab.training.metrics_file import NAME, read_kept
from archlab.training.run_dir import last_metrics


def run_page(folder: Path) -> str:
    """Return the page of a run: curves, last metrics, costs, settings."""
    require_unedited(folder)
    experiment, last = load(folder / "experiment.yaml", recorded=True), last_metrics(folder)
    curves = run_curves(curve_of(folder, "loss"), curve_of(folder))
    parts = [
        section("Learning curves", figure(curves, "curves")),
        section("Last metrics", facts(last)),
        section("Model costs", facts(estimate_cost(experiment).to_dict())),
        section("Experiment", code((folder / "experiment.yaml").read_text(encoding="utf-8"), folded="All settings")),
        section("Environment", facts(_environment(folder))),
    ]
    return page(f"Run: {experiment.name}", [_headline(last, experiment.train.steps)], parts)


def _headline(last: Mapping[str, float], steps: int) -> str:
    done = f"{last.get('step', 0)} of {steps} steps"
    if "val_loss" not in last:
        return f"After {done}, the model has not been evaluated on the validation split."
    return f"After {done}: {format_metrics(last, 'val_')} on the validation split."


def _environment(folder: Path) -> dict[str, Any]:
    file = folder / "final" / "provenance.json"
    if not file.is_file():
        return {"state": "not finished"}
    provenance = read_provenance(file)
    require_model_of(folder, file.parent)
    read_kept(folder / NAME, provenance.get("step", 0), provenance.get("metrics_log"))  # refuses a log that was changed
    return {**describe_corpus(provenance.get("data", {})), **provenance.get("versions", {})}
