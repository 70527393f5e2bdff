"""Configurations and names shared by decoders with rotary positions and gated FFNs: LLaMA, Mistral, Gemma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import Fields, KeyMap
from archlab.interop.hugging_face.formats._experts import is_sparse
from archlab.interop.hugging_face.formats._names import layer_keys, num_layers
from archlab.interop.hugging_face.formats._rope import rope_fields, rope_position
from archlab.interop.hugging_face.formats._windows import FULL, SLIDING

FIELDS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": None,
    "rope_theta": None,
    "rope_scaling": None,
    "layer_types": None,
    "attention_dropout": 0.0,
}
FIXED: dict[str, tuple[Any, ...]] = {}
# How many devices multiplied a part each while it was trained: the sum is the same.
IGNORED = ("pretraining_tp",)
MIXER = {
    "input_layernorm": "norm",
    "self_attn.q_proj": "mixer.query",
    "self_attn.k_proj": "mixer.key",
    "self_attn.v_proj": "mixer.value",
    "self_attn.o_proj": "mixer.out",
    "post_attention_layernorm": "ffn_norm",
}
BLOCK = MIXER | {
    "mlp.gate_proj": "ffn.gate",
    "mlp.up_proj": "ffn.up",
    "mlp.down_proj": "ffn.down",
}


def key_map(config: Fields, block: Mapping[str, str] = BLOCK) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    biased = {"self_attn": config.get("attention_bias", False), "mlp": config.get("mlp_bias", False)}
    layer = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in block.items()}
    layer |= {
        f"{theirs}.bias": f"{ours}.bias"
        for theirs, ours in block.items()
        if theirs.endswith("_proj") and biased.get(theirs.partition(".")[0])
    }
    ends: KeyMap = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "norm.weight"}
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": "head.weight"}
    return ends | layer_keys(config["num_hidden_layers"], "model.layers", layer) | head


def decoder_config(
    config: Fields,
    *,
    ffn: Fields,
    attention: Fields | None = None,
    zero_centered: bool = False,
    scale: bool = False,
) -> dict[str, Any]:
    """Return the YAML data of a decoder, with full attention over its maximum context unless `attention` is given."""
    check_layer_types(config, sliding=attention is not None)
    full = {"window": "full", "window_size": config["max_position_embeddings"]}
    mixer = {"attention": attention or full, "position": rope_position(config)}
    layer = {"repeat": config["num_hidden_layers"], "mixer": mixer, "ffn": ffn}
    return stack_config(config, [layer], zero_centered=zero_centered, scale=scale)


def stack_config(
    config: Fields,
    layers: Sequence[Fields],
    *,
    zero_centered: bool = False,
    scale: bool = False,
    soft_cap: float | None = None,
) -> dict[str, Any]:
    """Return the YAML data of a decoder of layers, each given by its differences from the default."""
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "embedding": {"type": "tokens", "scale": scale},
        "layers": [_layer(config, layer, zero_centered) for layer in layers],
        "norm": rms(config, zero_centered),
        "head": {"type": "language_model", "tied": config["tie_word_embeddings"], "soft_cap": soft_cap},
    }


def rms(config: Fields, zero_centered: bool) -> dict[str, Any]:
    """Return the YAML data of a norm."""
    return {"type": "rms", "eps": config["rms_norm_eps"], "zero_centered": zero_centered}


def _layer(config: Fields, own: Fields, zero_centered: bool) -> dict[str, Any]:
    norm, mixer = rms(config, zero_centered), own["mixer"]
    dense = {"hidden_dim": config["intermediate_size"], "bias": config.get("mlp_bias", False)}
    ffn = own["ffn"] if is_sparse(own) else dense | own["ffn"]
    layer = {"type": "block", "residual": "pre_norm", "norm": norm, "ffn_norm": norm}
    # A mixer with a type of its own is whole.
    return {**layer, **own, "mixer": mixer if "type" in mixer else attention_config(config, mixer), "ffn": ffn}


def attention_config(config: Fields, own: Fields) -> dict[str, Any]:
    """Return the YAML data of an attention mixer, given its differences from the default."""
    heads = config["num_attention_heads"]
    return {
        "type": "attention",
        "num_heads": heads,
        "num_kv_heads": config["num_key_value_heads"] or heads,
        "head_dim": config["head_dim"] or config["hidden_size"] // heads,
        "bias": config.get("attention_bias", False),
        **own,
        "attention": {"type": "softmax", "dropout": config["attention_dropout"], **own["attention"]},
        "position": {"interleaved": False, **own["position"]},
    }


def check_layer_types(config: Fields, sliding: bool) -> None:
    """Raise ArchlabError where a list of the layers' kinds says other than that all have, or lack, a sliding window."""
    kind = SLIDING if sliding else FULL
    if any(layer != kind for layer in config["layer_types"] or []):
        raise ArchlabError(f"layer_types {config['layer_types']!r}: not represented, only {kind!r} for every layer is")


def decoder_fields(model: Fields) -> dict[str, Any]:
    """Return the fields shared by all decoders that are closest to a model's YAML data."""
    layer = model["layers"][0]
    mixer, attention = layer["mixer"], layer["mixer"].get("attention", {})
    heads = mixer.get("num_heads", 1)
    return {
        "vocab_size": model["vocab_size"],
        "hidden_size": model["dim"],
        "intermediate_size": layer["ffn"].get("hidden_dim") or 8 * -(-model["dim"] // 3),
        "num_hidden_layers": num_layers(model),
        "num_attention_heads": heads,
        "num_key_value_heads": mixer.get("num_kv_heads") or heads,
        "head_dim": mixer.get("head_dim") or model["dim"] // heads,
        "max_position_embeddings": attention.get("window_size", 2048),
        "rms_norm_eps": layer["norm"].get("eps", 1e-6),
        "tie_word_embeddings": model["head"].get("tied", False),
        "rope_parameters": rope_fields(mixer.get("position", {})),
        "attention_dropout": attention.get("dropout", 0.0),
    }
