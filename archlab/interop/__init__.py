"""Models of other implementations: their configurations and tensors, loaded into archlab's models by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from archlab.errors import ArchlabError
from archlab.interop._formats import StateDictFormat, find_format, format_names
from archlab.interop.exporting.import_export import import_export, is_own_export
from archlab.interop.hugging_face import import_checkpoint as hugging_face
from archlab.interop.hugging_face.pretrained import describe_pretrained, load_pretrained, save_pretrained

__all__ = ["describe_pretrained", "import_checkpoint", "load", "load_pretrained", "names", "save_pretrained", "systems"]

_PACKAGE = f"{__name__}.state_dicts"


def import_checkpoint(
    directory: Path, out: Path, *, tokenizer: str | None = None, special_tokens: bool = True, force: bool = False
) -> Path:
    """Write a transformers checkpoint, or an export of archlab's own that was tuned, as a checkpoint to `out`.

    An export has its own vocabulary, so a `tokenizer` is refused. Raises ArchlabError for a directory
    that cannot be represented, or an `out` that is not empty.
    """
    if not is_own_export(directory):
        return hugging_face.import_checkpoint(
            directory, out, tokenizer=tokenizer, special_tokens=special_tokens, force=force
        )
    if tokenizer is not None:
        raise ArchlabError(f"--tokenizer {tokenizer}: {directory} is an export of archlab's, whose tokens are known")
    return import_export(directory, out, force=force)


def systems() -> list[str]:
    """Return the names of the implementations whose state dicts can be loaded."""
    return format_names(_PACKAGE)


def _find(system: str) -> StateDictFormat:
    return find_format(_PACKAGE, system, StateDictFormat, noun="system")


def load(system: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the model of another implementation's configuration and state dict, in the tensors' dtype.

    Raises ArchlabError for a field or tensor that is unknown, missing or of another shape.
    """
    return _find(system).load(config, tensors)


def names(system: str, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the model's parameter for each name in the other implementation's state dict."""
    return _find(system).names(model)
