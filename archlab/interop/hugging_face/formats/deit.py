"""DeiT as DeiTForImageClassification: ViT with a second class token, which is trained by distillation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from archlab.interop._formats import Fields, KeyMap
from archlab.interop.hugging_face.formats import vit

CLASS_TOKENS = ["cls_token", "distillation_token"]


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    return vit.vit_key_map(config, "deit", CLASS_TOKENS)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return vit.vit_config(config, len(CLASS_TOKENS))


FORMAT = replace(
    vit.FORMAT, architecture="DeiTForImageClassification", to_archlab_config=to_archlab_config, key_map=key_map
)
