"""Conversion of a transformers checkpoint to a checkpoint of archlab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment
from archlab.config.spec import Spec, parse
from archlab.config.train_config import TrainConfig
from archlab.interop.hugging_face.pretrained import describe_pretrained, load_pretrained
from archlab.modeling.build import build_on_meta
from archlab.modeling.state import max_context
from archlab.runtime.environment import versions
from archlab.storage import checkpoint
from archlab.storage.files import require_empty_dir

TOKENIZER = "tokenizer.json"


def import_checkpoint(directory: Path, out: Path, *, force: bool = False) -> Path:
    """Write a transformers checkpoint directory as a published checkpoint to `out`, with its tokenizer.

    Returns `out`. Raises ArchlabError for a directory that cannot be represented, or an `out` that is not empty.
    """
    spec = describe_pretrained(directory)  # what config.json alone shows is told before `out` is made
    require_empty_dir(out, force, "the checkpoint")
    model = load_pretrained(directory)
    experiment = _experiment(directory, spec)
    tokenizer = [file for file in [directory / TOKENIZER] if file.is_file()]
    provenance = {"imported_from": str(directory), "versions": versions()}
    checkpoint.save_model(out, model, experiment.resolved, provenance, tokenizer)
    return out


def _experiment(directory: Path, model: Spec) -> Experiment:
    name = directory.resolve().name
    max_length = max_context(build_on_meta(model)) or TrainConfig.context
    train = TrainConfig(context=min(max_length, TrainConfig.context), batch_size=1)
    task = parse(_task(directory, model), "task", "task")
    return Experiment(name, f"imported from {name}", model, task, train, (), str(directory))


def _task(directory: Path, model: Spec) -> dict[str, Any]:
    vocab_size = model.knobs.get("vocab_size")
    if vocab_size is None:
        return {"type": "no_data_classifier", "num_outputs": model.knobs["head"].knobs["num_outputs"]}
    tokenizer = {"tokenizer": TOKENIZER} if (directory / TOKENIZER).is_file() else {}
    return {"type": "no_data", "vocab_size": vocab_size, **tokenizer}
