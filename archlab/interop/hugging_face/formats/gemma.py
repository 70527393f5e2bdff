"""Gemma as GemmaForCausalLM: wide heads, GEGLU, zero-centered norms, scaled and tied embeddings."""

from __future__ import annotations

from typing import Any

from archlab.interop._formats import CheckpointFormat, Fields
from archlab.interop.hugging_face.formats import _decoder

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
# Older files say gelu and mean its tanh approximation, which the class computes for both.
FIXED: dict[str, tuple[Any, ...]] = _decoder.FIXED | {
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),
    "hidden_activation": (None, "gelu_pytorch_tanh"),
    "use_bidirectional_attention": (None, False),
}


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return _decoder.decoder_config(config, ffn={"type": "geglu"}, zero_centered=True, scale=True)


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    bias = model["layers"][0]["mixer"].get("bias", False)
    return _decoder.decoder_fields(model) | {"attention_bias": bias, "hidden_act": "gelu_pytorch_tanh"}


FORMAT = CheckpointFormat(
    architecture="GemmaForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=_decoder.IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=_decoder.key_map,
)
