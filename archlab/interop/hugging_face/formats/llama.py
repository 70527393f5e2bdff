"""LLaMA as LlamaForCausalLM."""

from __future__ import annotations

from typing import Any

from archlab.interop._formats import CheckpointFormat, Fields
from archlab.interop.hugging_face.formats import _decoder


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return _decoder.decoder_config(config, ffn={"type": "swiglu"})


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layer = model["layers"][0]
    biases = {"attention_bias": layer["mixer"].get("bias", False), "mlp_bias": layer["ffn"].get("bias", False)}
    return _decoder.decoder_fields(model) | biases | {"hidden_act": "silu"}


FORMAT = CheckpointFormat(
    architecture="LlamaForCausalLM",
    fields=_decoder.FIELDS | {"attention_bias": False, "mlp_bias": False},
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish")},
    ignored=_decoder.IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=_decoder.key_map,
)
