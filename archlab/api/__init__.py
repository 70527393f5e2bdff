"""Public functions of archlab, one per verb; an experiment is given by name, file, mapping or object.

A failure of the machine, such as a full disk, is a MachineError whose cause is what was raised below.
"""

from __future__ import annotations

from archlab.api.components import check
from archlab.api.experiments import corpus_dir, dry_run_training, load, plan, prepare, prepare_corpus, show, train
from archlab.api.generating import generate, generate_batch, generate_tokens
from archlab.api.models import compare, evaluate, evaluate_suite, export, import_checkpoint, load_model, migrate, report
from archlab.api.searches import dry_run, dry_run_ladder, fit, run_ladder, search, watch

__all__ = [
    "check",
    "compare",
    "corpus_dir",
    "dry_run",
    "dry_run_ladder",
    "dry_run_training",
    "evaluate",
    "evaluate_suite",
    "export",
    "fit",
    "generate",
    "generate_batch",
    "generate_tokens",
    "import_checkpoint",
    "load",
    "load_model",
    "migrate",
    "plan",
    "prepare",
    "prepare_corpus",
    "report",
    "run_ladder",
    "search",
    "show",
    "train",
    "watch",
]
