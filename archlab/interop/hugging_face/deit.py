"""DeiT as DeiTForImageClassification: ViT with a second class token, which distillation has learned by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.interop.hugging_face import vit
from archlab.interop.hugging_face.vit import FIELDS, FIXED, IGNORED, config, to_ours, to_theirs

__all__ = ["FIELDS", "FIXED", "IGNORED", "config", "to_ours", "to_theirs"]

ARCHITECTURE = "DeiTForImageClassification"
CLASS_TOKENS = ["cls_token", "distillation_token"]


def names(config: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """Return our name for each of theirs."""
    return vit.named(config, "deit", CLASS_TOKENS)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return vit.described(config, len(CLASS_TOKENS))
