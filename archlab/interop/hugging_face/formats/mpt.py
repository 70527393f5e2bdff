"""MPT as MptForCausalLM.

That class always computes ALiBi with a maximum bias of 8, no other biases, and an FFN of 4 times the width, whatever
its configuration says. Other values are refused: they describe a model that the class does not compute.
"""

from __future__ import annotations

from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats._names import knob, layer_keys, num_layers
from archlab.interop.hugging_face.unknown_fields import problem_of

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
    "fused_qkv": (True,),
    "kv_n_heads": (None,),
    "sliding_window_size": (-1,),
}
# Fields that only rotary positions read, which `rope` turns on.
ROPE_FIELDS = ("rope_theta", "rope_impl", "rope_dail_config", "rope_hf_config")
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
    "ffn_config": (None, {"ffn_type": "mptmlp"}, {"fc_type": "torch", "ffn_type": "mptmlp"}),
    "fc_type": ("torch", {"name": "torch"}),
}
ALIASES = {"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
IGNORED = ("init_config", "init_device", "learned_pos_emb", "tokenizer_name", "verbose")
BLOCK: KeyMap = {
    "norm_1.weight": "norm.weight",
    "attn.Wqkv.weight": ("mixer.query.weight", "mixer.key.weight", "mixer.value.weight"),
    "attn.out_proj.weight": "mixer.out.weight",
    "norm_2.weight": "ffn_norm.weight",
    "ffn.up_proj.weight": "ffn.up.weight",
    "ffn.down_proj.weight": "ffn.down.weight",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    ends: KeyMap = {"transformer.wte.weight": "embedding.weight", "transformer.norm_f.weight": "norm.weight"}
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": "head.weight"}
    return ends | layer_keys(config["n_layers"], "transformer.blocks", BLOCK) | head


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for an unsupported value."""
    _check_attention(config["attn_config"] or {})
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["d_model"],
        "layers": [_layer(config)],
        "norm": _norm(config),
        "head": {"type": "language_model", "tied": config["tie_word_embeddings"]},
    }


def _check_attention(attention: Fields) -> None:
    """Raise ArchlabError for the first field of attn_config that cannot be represented."""
    for field, value in attention.items():
        if field in ATTENTION and value not in ATTENTION[field]:
            raise ArchlabError(f"attn_config.{field} {value!r}: not represented, only {ATTENTION[field][0]!r} is")
        if field not in ATTENTION and field not in ROPE_FIELDS and (problem := problem_of(field, value, ATTENTION)):
            raise ArchlabError(f"attn_config: {problem}")


def _layer(config: Fields) -> dict[str, Any]:
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


def _norm(config: Fields) -> dict[str, Any]:
    return {"type": "layer", "eps": config["layer_norm_epsilon"], "bias": False, "zero_centered": False}


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
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


FORMAT = CheckpointFormat(
    architecture="MptForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=IGNORED,
    aliases=ALIASES,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
