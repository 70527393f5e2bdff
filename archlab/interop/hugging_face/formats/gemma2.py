"""Gemma 2 as Gemma2ForCausalLM: Gemma with capped scores and logits, norms after both branches, and sliding windows."""

from __future__ import annotations

from typing import Any

from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows
from archlab.interop.hugging_face.formats._names import knob
from archlab.interop.hugging_face.formats._rope import rope_position
from archlab.interop.hugging_face.formats._windows import FULL, SLIDING

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
FIXED: dict[str, tuple[Any, ...]] = _decoder.FIXED | {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),  # not read by the class
    "use_bidirectional_attention": (None, False),
}
BLOCK = _decoder.BLOCK | {
    "post_attention_layernorm": "output_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "ffn_output_norm",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    return _decoder.key_map(config, BLOCK)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    position = rope_position(config)
    windows = _windows.windows(config, soft_cap=config["attn_logit_softcapping"])
    layers = {kind: layer(config, {"attention": window, "position": position}) for kind, window in windows.items()}
    kinds = config["layer_types"] or [FULL if index % 2 else SLIDING for index in range(config["num_hidden_layers"])]
    return sandwich_config(config, _windows.window_layers(config, kinds, layers))


def layer(config: Fields, mixer: Fields) -> dict[str, Any]:
    """Return the YAML data of a layer with a norm after each branch."""
    norm, size = _decoder.rms(config, True), config["query_pre_attn_scalar"]
    scale = None if size == config["head_dim"] else size**-0.5
    return {"mixer": {"scale": scale, **mixer}, "ffn": {"type": "geglu"}, "output_norm": norm, "ffn_output_norm": norm}


def sandwich_config(config: Fields, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the YAML data of a decoder of such layers."""
    soft_cap = config["final_logit_softcapping"]
    return _decoder.stack_config(config, layers, zero_centered=True, scale=True, soft_cap=soft_cap)


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    attention = model["layers"][0]["mixer"]["attention"]
    return sandwich_fields(model) | {"attn_logit_softcapping": attention.get("soft_cap")}


def sandwich_fields(model: Fields) -> dict[str, Any]:
    """Return the fields shared with Gemma 3 that are closest to a model's YAML data."""
    fields, mixer = _decoder.decoder_fields(model) | _windows.window_fields(model), model["layers"][0]["mixer"]
    scale = mixer.get("scale")
    return fields | {
        "attention_bias": mixer.get("bias", False),
        # Where no layer has a window too: the class wants a number, and says nothing to a null before it runs.
        "sliding_window": fields["sliding_window"] or FIELDS["sliding_window"],
        "query_pre_attn_scalar": fields["head_dim"] if scale is None else round(scale**-2),
        "final_logit_softcapping": knob(model, "head", "soft_cap", None),
        "hidden_activation": "gelu_pytorch_tanh",
    }


FORMAT = CheckpointFormat(
    architecture="Gemma2ForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=_decoder.IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
