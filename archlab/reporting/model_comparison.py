"""Comparison of models: differences, costs, learning curves, results of suites, and unequal conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from archlab.reporting.compared_model import ComparedModel, read_models
from archlab.reporting.differences import Difference, differences
from archlab.reporting.pages.compare_page import compare_page
from archlab.storage.files import atomic_dir, write_text
from archlab.storage.manifest import write_manifest
from archlab.storage.targets import require_target

KIND, RESULT, PAGE = "comparison", "comparison.json", "index.html"


@dataclass(frozen=True)
class ModelComparison:
    """Models side by side; `notes` tell why their losses do not compare, where they do not."""

    models: Sequence[ComparedModel]
    differences: Sequence[Difference]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, object]:
        """Return the comparison as JSON data."""
        return {
            "models": [model.to_dict() for model in self.models],
            "differences": [asdict(each) for each in self.differences],
            "notes": list(self.notes),
        }


def compare_models(named: Sequence[str]) -> ModelComparison:
    """Compare experiments and directories that archlab wrote; raise ArchlabError for anything else."""
    models = read_models(named)
    found = differences([model.experiment.resolved for model in models])
    return ModelComparison(models, found, tuple(_notes(models)))


def _notes(models: Sequence[ComparedModel]) -> Iterator[str]:
    trained = [model for model in models if model.tokens]
    if len(trained) < 2:
        return
    if len({str(model.data.get("sha256")) for model in trained if model.data}) > 1:
        yield "They were trained on different data: their losses do not compare."
    if len({model.experiment.model.to_plain().get("vocab_size") for model in trained}) > 1:
        yield "Their vocabularies differ: losses a token do not compare, bits per byte do."
    if len({model.tokens for model in trained}) > 1:
        yield "They were trained on different numbers of tokens: read their curves at equal tokens."
    if len({model.experiment.train.eval_tokens for model in trained}) > 1:
        yield "Their validation losses are of different parts of the validation split."
    yield "Each is one run: the effect of another random seed is unknown, so small differences may be noise."


def write_comparison(out: Path, found: ModelComparison, *, force: bool) -> None:
    """Write a page and everything as JSON."""
    check = require_target(out, KIND, force=force)
    with atomic_dir(out, replace=True, check=check) as partial:
        write_text(partial / PAGE, compare_page(found.models, found.differences, found.notes))
        write_text(partial / RESULT, json.dumps(found.to_dict(), indent=2))
        write_manifest(partial, KIND)
