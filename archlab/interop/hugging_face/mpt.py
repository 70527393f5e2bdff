"""MPT as MptForCausalLM.

That class has linear biases with a maximum of 8, no biases and a feed-forward layer 4 times as wide, whatever its
configuration says: other values are refused, since they describe another model than the one that it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop.hugging_face._names import knob, num_layers, prefixed

ARCHITECTURE = "MptForCausalLM"
ATTENTION: dict[str, tuple[Any, ...]] = {
    "attn_type": ("multihead_attention",),
    "attn_pdrop": (0,),
    "attn_impl": ("torch", "flash", "triton"),
    "clip_qkv": (None,),
    "softmax_scale": (None,),
    "prefix_lm": (False,),
    "qk_ln": (False,),
    "attn_uses_sequence_id": (False,),
    "alibi": (True,),
    "alibi_bias_max": (8,),
    "rope": (False,),
    "qk_gn": (False,),
    "kv_n_heads": (None,),
    "sliding_window_size": (-1,),
}
FIELDS: dict[str, Any] = {
    "d_model": 2048,
    "n_heads": 16,
    "n_layers": 24,
    "expansion_ratio": 4,
    "max_seq_len": 2048,
    "vocab_size": 50368,
    "resid_pdrop": 0.0,
    "layer_norm_epsilon": 1e-5,
    "emb_pdrop": 0.0,
    "attn_config": None,
    "logit_scale": None,
    "no_bias": True,
    "embedding_fraction": 1.0,
    "norm_type": "low_precision_layernorm",
    "tie_word_embeddings": True,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "expansion_ratio": (4,),
    "resid_pdrop": (0.0,),
    "emb_pdrop": (0.0,),
    "logit_scale": (None,),
    "no_bias": (True,),
    "embedding_fraction": (1.0,),
    "norm_type": ("low_precision_layernorm", "layernorm"),
}
IGNORED = ("init_config", "init_device", "learned_pos_emb", "tokenizer_name", "verbose")
BLOCK: dict[str, str | tuple[str, ...]] = {
    "norm_1.weight": "norm.weight",
    "attn.Wqkv.weight": ("mixer.query.weight", "mixer.key.weight", "mixer.value.weight"),
    "attn.out_proj.weight": "mixer.out.weight",
    "norm_2.weight": "ffn_norm.weight",
    "ffn.up_proj.weight": "ffn.up.weight",
    "ffn.down_proj.weight": "ffn.down.weight",
}


def key_map(config: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """Return our name, or names, for each of theirs."""
    found: dict[str, str | tuple[str, ...]] = {"transformer.wte.weight": "embedding.weight"}
    for layer in range(config["n_layers"]):
        found |= {
            f"transformer.blocks.{layer}.{theirs}": prefixed(f"blocks.{layer}", ours) for theirs, ours in BLOCK.items()
        }
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": "head.weight"}
    return found | {"transformer.norm_f.weight": "norm.weight"} | head


def to_archlab_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for what it cannot have."""
    _check_attention(config["attn_config"] or {})
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["d_model"],
        "layers": [_layer(config)],
        "norm": _norm(config),
        "head": {"type": "language_model", "tied": config["tie_word_embeddings"]},
    }


def _check_attention(attention: Mapping[str, Any]) -> None:
    """Raise ArchlabError for the first field of attn_config that cannot be represented."""
    for field, values in ATTENTION.items():
        if attention.get(field, values[0]) not in values:
            raise ArchlabError(f"attn_config.{field} {attention[field]!r}: not represented, only {values[0]!r} is")


def _layer(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "block",
        "repeat": config["n_layers"],
        "residual": "pre_norm",
        "norm": _norm(config),
        "mixer": {
            "type": "attention",
            "num_heads": config["n_heads"],
            "attention": {"type": "softmax", "window": "full", "window_size": config["max_seq_len"]},
            "position": {"type": "alibi", "max_bias": 8.0},
        },
        "ffn_norm": _norm(config),
        "ffn": {"type": "mlp", "hidden_dim": 4 * config["d_model"], "activation": "gelu"},
    }


def _norm(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "layer", "eps": config["layer_norm_epsilon"], "bias": False, "zero_centered": False}


def to_hf_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a model's YAML data most resembles."""
    layer = model["layers"][0]
    return {
        "d_model": model["dim"],
        "n_heads": knob(layer, "mixer", "num_heads", 1),
        "n_layers": num_layers(model),
        "max_seq_len": knob(layer["mixer"], "attention", "window_size", FIELDS["max_seq_len"]),
        "vocab_size": model["vocab_size"],
        "layer_norm_epsilon": knob(layer, "norm", "eps", FIELDS["layer_norm_epsilon"]),
        "tie_word_embeddings": knob(model, "head", "tied", False),
    }
