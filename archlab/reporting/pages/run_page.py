"""The page of one training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment, load
from archlab.modeling.cost import estimate_cost
from archlab.reporting.figures.run_curves import loss_curves, other_curves
from archlab.reporting.format import axis_title, describe_corpus, format_metrics
from archlab.reporting.html import code, facts, figure, key_figures, page, paragraph, section, table
from archlab.reporting.pages.model_section import diagram
from archlab.storage.provenance import read_provenance
from archlab.storage.run_identity import require_model_of, require_unedited
from archlab.text import shell_path
from archlab.training import metrics
from archlab.training.metrics_file import NAME, read_kept


def run_page(folder: Path) -> str:
    """Return the page of a run: curves, last metrics, costs, the model, settings; the run may still be in progress."""
    require_unedited(folder)
    experiment, records = load(folder / "experiment.yaml", recorded=True), metrics.read(folder)
    last = {name: value for record in records for name, value in record.items()}
    lead = paragraph(_headline(last, experiment.train.steps), "lead") + key_figures(_figures(last, records, experiment))
    if not (folder / "final").is_dir():
        lead += paragraph("The run has not ended; this is its state now.", "note")
    return page(f"Run: {experiment.name}", [], [lead, *_sections(folder, experiment, records)])


def _sections(folder: Path, experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if (losses := loss_curves(records)) is not None:
        yield section("Learning curves", figure(*losses))
    if (others := other_curves(records)) is not None:
        yield section("Other metrics", figure(others))
    costs = estimate_cost(experiment).to_dict()
    yield section("Model", diagram({"model": experiment.resolved["model"]}))
    yield section(
        "Model costs",
        table(
            ["cost", "", "value"], [("", (n, axis_title(n), v)) for n, v in costs.items()], name="costs", narrow=True
        ),
    )
    yield section("Evaluations", _evaluations(records))
    text = (folder / "experiment.yaml").read_text(encoding="utf-8")
    yield section("Experiment", code(text, folded="All settings"))
    again = f"archlab train {shell_path(folder / 'experiment.yaml')} --out {shell_path(f'{folder}-again')}"
    yield section("Reproduce", code(f"# the same run from the start, in another directory\n{again}"))
    yield section("Environment", facts(_environment(folder)))


def _headline(last: Mapping[str, float], steps: int) -> str:
    done = f"{last.get('step', 0)} of {steps} steps"
    if "val_loss" not in last:
        return f"After {done}, the model has not been evaluated on the validation split."
    return f"After {done}: {format_metrics(last, 'val_')} on the validation split."


def _figures(
    last: Mapping[str, Any], records: Sequence[Mapping[str, Any]], experiment: Experiment
) -> Iterator[tuple[str, str, str]]:
    losses = [(r["val_loss"], r["step"]) for r in records if r.get("val_loss") is not None]
    if losses:
        yield "validation loss", f"{losses[-1][0]:.4f}", f"lowest {min(losses)[0]:.4f} at step {min(losses)[1]}"
    if last.get("loss") is not None:
        yield "training loss", f"{last['loss']:.4f}", "of the last logged step"
    yield "steps", f"{last.get('step', 0):,}", f"of {experiment.train.steps:,}"
    yield "tokens", f"{last.get('step', 0) * experiment.train.tokens_per_step:,}", "trained on"
    if last.get("tokens_per_s") is not None:
        yield "speed", f"{last['tokens_per_s']:,.0f}", "tokens per second"


def _evaluations(records: Sequence[Mapping[str, Any]]) -> str:
    found = [record for record in records if any(name.startswith("val_") for name in record)]
    names = list(dict.fromkeys(name for record in found for name in record))
    return table(
        names, [("", [record.get(name) for name in names]) for record in found], name="evaluations", narrow=True
    )


def _environment(folder: Path) -> dict[str, Any]:
    file = folder / "final" / "provenance.json"
    if not file.is_file():
        return {"state": "not finished"}
    provenance = read_provenance(file)
    require_model_of(folder, file.parent)
    read_kept(folder / NAME, provenance.get("step", 0), provenance.get("metrics_log"))  # refuses a log that was changed
    return {**describe_corpus(provenance.get("data", {})), **provenance.get("versions", {})}
