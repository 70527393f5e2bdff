"""LFM2 as Lfm2ForCausalLM: short convolutions between two gates, and attention with a norm of each query and key."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows
from archlab.interop.hugging_face.formats._hybrid import first_layer, hybrid_key_map, led_by, whole_layers
from archlab.interop.hugging_face.formats._names import knob
from archlab.interop.hugging_face.formats._rope import rope_position
from archlab.interop.hugging_face.formats._windows import FULL

CONV = "conv"
FIELDS: dict[str, Any] = {
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": None,
    "rope_theta": None,
    "rope_scaling": None,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "full_attn_idxs": None,
    "layer_types": None,
}
# Fields of some files, for features that the class always has.
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "block_use_swiglu": (True,),
    "use_pos_enc": (True,),
}
# Other names of sizes that the class reads elsewhere, and how the weights were drawn.
IGNORED = (
    "block_dim",
    "block_mlp_init_scale",
    "block_norm_eps",
    "block_out_init_scale",
    "block_use_xavier_init",
    "conv_dim",
    "conv_dim_out",
    "conv_use_xavier_init",
    "num_heads",
)
BASE = 1e6  # of the angles, in a file without one
ENDS: KeyMap = {"model.embed_tokens.weight": "embedding.weight", "model.embedding_norm.weight": "norm.weight"}
LAYER: KeyMap = {
    "operator_norm.weight": "norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "feed_forward.w1.weight": "ffn.gate.weight",
    "feed_forward.w3.weight": "ffn.up.weight",
    "feed_forward.w2.weight": "ffn.down.weight",
}
ATTENTION: KeyMap = {
    "self_attn.q_proj.weight": "mixer.query.weight",
    "self_attn.k_proj.weight": "mixer.key.weight",
    "self_attn.v_proj.weight": "mixer.value.weight",
    "self_attn.out_proj.weight": "mixer.out.weight",
    "self_attn.q_layernorm.weight": "mixer.query_norm.weight",
    "self_attn.k_layernorm.weight": "mixer.key_norm.weight",
}
TAPS = "conv.conv.weight"
CONVOLUTION: KeyMap = {
    "conv.in_proj.weight": ("mixer.gate_in.weight", "mixer.gate_out.weight", "mixer.value.weight"),
    TAPS: "mixer.ema.weight",
    "conv.out_proj.weight": "mixer.out.weight",
}
CONVOLUTION_BIAS: KeyMap = {
    "conv.in_proj.bias": ("mixer.gate_in.bias", "mixer.gate_out.bias", "mixer.value.bias"),
    "conv.conv.bias": "mixer.ema.bias",
    "conv.out_proj.bias": "mixer.out.bias",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    convolution = CONVOLUTION | (CONVOLUTION_BIAS if config["conv_bias"] else {})
    mixers = {FULL: ATTENTION, CONV: convolution}
    return hybrid_key_map(config, ENDS, [LAYER | mixers[kind] for kind in _kinds(config)])


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [size, D]."""
    return tensor[:, 0].T if name.endswith(TAPS) else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [D, 1, size]."""
    return tensor.T[:, None] if name.endswith(TAPS) else tensor


def _kinds(config: Fields) -> list[str]:
    """Return the kind of each layer; raise ArchlabError where a file lists them twice, and differently."""
    kinds, indices = config["layer_types"], config["full_attn_idxs"]
    layers = range(config["num_hidden_layers"])
    if indices is None:
        return [FULL] * len(layers) if kinds is None else list(kinds)
    found = [FULL if index in indices else CONV for index in layers]
    if kinds not in (None, found):
        raise ArchlabError(f"full_attn_idxs {indices!r} and layer_types {kinds!r} are one value; leave one out")
    return found


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    config = {**config, "rms_norm_eps": config["norm_eps"], "intermediate_size": _hidden_dim(config)}
    config |= {"attention_dropout": 0.0}  # the class has none
    bias, size = config["conv_bias"], config["conv_L_cache"]
    convolution = {"ema": {"type": "short_conv", "kernel_size": size, "bias": bias}, "bias": bias}
    attention = {
        "attention": {"window": "full", "window_size": config["max_position_embeddings"]},
        "position": rope_position(config, BASE),
        "qk_norm": _decoder.rms(config, False),
    }
    mixers = {FULL: attention, CONV: {"type": "gated_conv"} | convolution}
    layers = {kind: {"mixer": mixer, "ffn": {"type": "swiglu"}} for kind, mixer in mixers.items()}
    return _decoder.stack_config(config, _windows.window_layers(config, _kinds(config), layers))


def _hidden_dim(config: Fields) -> int:
    """Return the width of the ffn, which the class computes from three numbers unless a flag disables that."""
    size, step = int(config["intermediate_size"]), int(config["block_multiple_of"])
    if not config["block_auto_adjust_ff_dim"]:
        return size
    return step * -(-int(config["block_ffn_dim_multiplier"] * int(2 * size / 3)) // step)


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data; raise ArchlabError for one without a convolution."""
    fields, convolution = _decoder.decoder_fields(led_by(model, "attention")), first_layer(model, "gated_conv")
    if not convolution:
        raise ArchlabError("no layer has the mixer 'gated_conv'")  # then it is a Qwen3
    kinds = [FULL if layer["mixer"]["type"] == "attention" else CONV for layer in whole_layers(model)]
    return {name: value for name, value in fields.items() if name in FIELDS} | {
        "norm_eps": fields["rms_norm_eps"],
        "layer_types": kinds,
        "conv_bias": knob(convolution, "mixer", "bias", False),
        "conv_L_cache": knob(convolution["mixer"], "ema", "kernel_size", FIELDS["conv_L_cache"]),
        "block_auto_adjust_ff_dim": False,
    }


FORMAT = CheckpointFormat(
    architecture="Lfm2ForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=IGNORED,
    aliases={"block_ff_dim": "intermediate_size", "tie_embedding": "tie_word_embeddings"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
