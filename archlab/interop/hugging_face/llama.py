"""LLaMA as LlamaForCausalLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.interop.hugging_face import _decoder
from archlab.interop.hugging_face._decoder import names

__all__ = ["ARCHITECTURE", "FIELDS", "FIXED", "config", "names", "plain"]

ARCHITECTURE = "LlamaForCausalLM"
FIELDS: dict[str, Any] = _decoder.FIELDS | {"attention_bias": False, "mlp_bias": False}
FIXED: dict[str, tuple[Any, ...]] = _decoder.FIXED | {"hidden_act": ("silu", "swish")}


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return _decoder.described(config, ffn={"type": "swiglu"})


def config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a model's YAML data most resembles."""
    layer = model["layers"][0]
    biases = {"attention_bias": layer["mixer"].get("bias", False), "mlp_bias": layer["ffn"].get("bias", False)}
    return _decoder.fields_of(model) | biases | {"hidden_act": "silu"}
