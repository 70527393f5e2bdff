"""Mistral as MistralForCausalLM: LLaMA with grouped heads and a sliding window."""

from __future__ import annotations

from typing import Any

from archlab.interop._formats import CheckpointFormat, Fields
from archlab.interop.hugging_face.formats import _decoder

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    window = config["sliding_window"]
    sliding = None if window is None else {"window": "sliding", "window_size": window}
    return _decoder.decoder_config(config, ffn={"type": "swiglu"}, attention=sliding)


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    attention = model["layers"][0]["mixer"].get("attention", {})
    fields = _decoder.decoder_fields(model) | {"sliding_window": None, "hidden_act": "silu"}
    if attention.get("window") != "sliding":
        return fields
    # The window says nothing about the longest text: a model of archlab with a sliding window has no such limit.
    longest = FIELDS["max_position_embeddings"]
    return fields | {"sliding_window": attention["window_size"], "max_position_embeddings": longest}


FORMAT = CheckpointFormat(
    architecture="MistralForCausalLM",
    fields=FIELDS,
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish")},
    ignored=_decoder.IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=_decoder.key_map,
)
