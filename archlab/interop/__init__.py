"""Models of other implementations: their configurations and tensors, loaded into archlab's models by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from archlab.interop._formats import StateDictFormat, find_format, format_names
from archlab.interop.hugging_face.import_checkpoint import import_checkpoint
from archlab.interop.hugging_face.pretrained import describe_pretrained, load_pretrained, save_pretrained

__all__ = ["describe_pretrained", "import_checkpoint", "load", "load_pretrained", "names", "save_pretrained", "systems"]

_PACKAGE = f"{__name__}.state_dicts"


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
