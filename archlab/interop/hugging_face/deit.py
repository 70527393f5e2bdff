"""DeiT as DeiTForImageClassification: ViT with a second class token, which distillation has learned by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.interop.hugging_face import vit
from archlab.interop.hugging_face.vit import FIELDS, FIXED, IGNORED, from_hf, to_hf, to_hf_config

__all__ = ["FIELDS", "FIXED", "IGNORED", "from_hf", "to_hf", "to_hf_config"]

ARCHITECTURE = "DeiTForImageClassification"
CLASS_TOKENS = ["cls_token", "distillation_token"]


def key_map(config: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """Return our name for each of theirs."""
    return vit.vit_key_map(config, "deit", CLASS_TOKENS)


def to_archlab_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return vit.vit_config(config, len(CLASS_TOKENS))
