"""LLaMA as LlamaForCausalLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.interop.hugging_face import _decoder
from archlab.interop.hugging_face._decoder import key_map

__all__ = ["ARCHITECTURE", "FIELDS", "FIXED", "key_map", "to_archlab_config", "to_hf_config"]

ARCHITECTURE = "LlamaForCausalLM"
FIELDS: dict[str, Any] = _decoder.FIELDS | {"attention_bias": False, "mlp_bias": False}
FIXED: dict[str, tuple[Any, ...]] = _decoder.FIXED | {"hidden_act": ("silu", "swish")}


def to_archlab_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return _decoder.decoder_config(config, ffn={"type": "swiglu"})


def to_hf_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a model's YAML data most resembles."""
    layer = model["layers"][0]
    biases = {"attention_bias": layer["mixer"].get("bias", False), "mlp_bias": layer["ffn"].get("bias", False)}
    return _decoder.decoder_fields(model) | biases | {"hidden_act": "silu"}
