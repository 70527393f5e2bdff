"""Conversion of a transformers checkpoint to a checkpoint of archlab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment
from archlab.config.spec import Spec, parse
from archlab.config.train_config import TrainConfig
from archlab.data.tokenizers import ModelTokens
from archlab.interop.hugging_face.pretrained import describe_pretrained, load_pretrained
from archlab.interop.hugging_face.tokenizer import find_tokens
from archlab.modeling.build import build_on_meta
from archlab.modeling.state import max_context
from archlab.runtime.environment import versions
from archlab.storage import checkpoint
from archlab.storage.targets import require_target


def import_checkpoint(
    directory: Path, out: Path, *, tokenizer: str | None = None, special_tokens: bool = True, force: bool = False
) -> Path:
    """Write a transformers checkpoint directory as a published checkpoint to `out`, with its tokenizer.

    `tokenizer` is `bytes` or the path of a tokenizer.json, by default the directory's own, and unknown if it has none.
    Returns `out`. Raises ArchlabError for a directory that cannot be represented, or an `out` that is not empty.
    """
    spec = describe_pretrained(directory)  # errors in config.json alone are raised before `out` is created
    tokens = None if _vocab_size(spec) is None else find_tokens(directory, tokenizer, special_tokens)
    check = require_target(out, "import", force=force, sources=[directory])
    model = load_pretrained(directory)
    experiment = _experiment(directory, spec, tokens)
    provenance = {"imported_from": str(directory), "versions": versions()}
    checkpoint.save_model(out, model, experiment.resolved, provenance, tokens, kind="import", check=check)
    return out


def _experiment(directory: Path, model: Spec, tokens: ModelTokens | None) -> Experiment:
    name = directory.resolve().name
    max_length = max_context(build_on_meta(model)) or TrainConfig.context
    train = TrainConfig(context=min(max_length, TrainConfig.context), batch_size=1)
    task = parse(_task(model, tokens), "task", "task")
    return Experiment(name, f"imported from {name}", model, task, train, (), str(directory))


def _task(model: Spec, tokens: ModelTokens | None) -> dict[str, Any]:
    vocab_size = _vocab_size(model)
    if tokens is None or vocab_size is None:
        return {"type": "no_data_classifier", "num_outputs": model.knobs["head"].knobs["num_outputs"]}
    tokenizer = "bytes" if tokens.kind == "bytes" else tokens.file
    return {
        "type": "no_data",
        "vocab_size": vocab_size,
        "tokenizer": tokenizer,
        "special_tokens": tokens.special_tokens,
    }


def _vocab_size(model: Spec) -> int | None:
    vocab_size: int | None = model.knobs.get("vocab_size")
    return vocab_size
