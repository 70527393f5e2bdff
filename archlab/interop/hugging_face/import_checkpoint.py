"""A checkpoint of another library as one of archlab's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

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
    """Write a transformers checkpoint directory as a published checkpoint to `out`, its tokenizer beside it.

    Raises ArchlabError where the directory cannot be represented, or `out` is taken.
    """
    experiment = _experiment(directory, describe_pretrained(directory))
    require_empty_dir(out, force, "the checkpoint")
    model: nn.Module = load_pretrained(directory)
    beside = [file for file in [directory / TOKENIZER] if file.is_file()]
    facts = {"imported_from": str(directory), "versions": versions()}
    checkpoint.save_model(out, model, experiment.resolved, facts, beside)
    return out


def _experiment(directory: Path, model: Spec) -> Experiment:
    name = directory.resolve().name
    longest = max_context(build_on_meta(model)) or TrainConfig.context
    train = TrainConfig(context=min(longest, TrainConfig.context), batch_size=1)
    task = parse(_task(directory, model.knobs.get("vocab_size"), model.knobs), "task", "task")
    return Experiment(name, f"imported from {name}", model, task, train, (), str(directory))


def _task(directory: Path, vocab_size: int | None, knobs: Any) -> dict[str, Any]:
    if vocab_size is None:
        return {"type": "no_data_classifier", "num_outputs": knobs["head"].knobs["num_outputs"]}
    words = {"tokenizer": TOKENIZER} if (directory / TOKENIZER).is_file() else {}
    return {"type": "no_data", "vocab_size": vocab_size, **words}
