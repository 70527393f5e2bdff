"""Models of other implementations: their configurations and tensors into archlab's models, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from archlab.errors import ArchlabError, did_you_mean
from archlab.interop.hugging_face.import_checkpoint import import_checkpoint
from archlab.interop.hugging_face.pretrained import describe_pretrained, load_pretrained, save_pretrained

__all__ = ["describe_pretrained", "import_checkpoint", "load", "load_pretrained", "names", "save_pretrained", "systems"]

SYSTEMS = ("megalodon",)


def systems() -> list[str]:
    """Return the names of the implementations whose state dicts can be read."""
    return list(SYSTEMS)


def _system(name: str) -> Any:
    if name not in systems():
        raise ArchlabError(f"no system {name!r}{did_you_mean(name, systems())}")
    return importlib.import_module(f"{__name__}.{name}")


def load(system: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the model of another implementation's configuration and state dict, in the tensors' dtype.

    Raises ArchlabError for a field or tensor that is unknown, missing or of another shape.
    """
    return _system(system).load(config, tensors)


def names(system: str, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the model's parameter for each name in the other implementation's state dict."""
    return _system(system).names(model)
