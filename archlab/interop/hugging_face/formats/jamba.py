"""Jamba as JambaForCausalLM: Mamba with normalized steps, attention without positions, experts in some layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, mamba
from archlab.interop.hugging_face.formats._experts import expert_keys, experts_config, experts_of, is_sparse
from archlab.interop.hugging_face.formats._hybrid import first_layer, hybrid_key_map, led_by, whole_layers
from archlab.interop.hugging_face.formats._names import prefix
from archlab.interop.hugging_face.formats.olmoe import NAMES

FIELDS: dict[str, Any] = {
    "vocab_size": 65536,
    "tie_word_embeddings": False,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 262144,
    "attention_dropout": 0.0,
    "num_experts_per_tok": 2,
    "num_experts": 16,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": "auto",
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}
# Which kernels compute it, for which tokens, and the loss of the balance, which is added where a model is trained.
IGNORED = (
    "calc_logits_for_entire_prompt",
    "output_router_logits",
    "router_aux_loss_coef",
    "use_associative_scan",
    "use_mamba_kernels",
    "use_mambapy",
)
ENDS: KeyMap = {"model.embed_tokens.weight": "embedding.weight", "model.final_layernorm.weight": "norm.weight"}
LAYER: KeyMap = {"input_layernorm.weight": "norm.weight", "pre_ff_layernorm.weight": "ffn_norm.weight"}
DENSE: KeyMap = {f"feed_forward.{theirs}.weight": f"ffn.{ours}.weight" for ours, theirs in NAMES.items()}
ATTENTION: KeyMap = {
    f"{theirs}.weight": f"{ours}.weight" for theirs, ours in _decoder.MIXER.items() if theirs.startswith("self_attn")
}
MAMBA: KeyMap = mamba.MIXER | {
    "dt_layernorm.weight": "dt_norm.weight",
    "b_layernorm.weight": "B_norm.weight",
    "c_layernorm.weight": "C_norm.weight",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    experts = expert_keys("feed_forward", config["num_experts"], NAMES, router="router")
    kinds = zip(_has_attention(config), _has_experts(config), strict=True)
    layers = [
        LAYER | (ATTENTION if has_attention else _mamba_keys(config)) | (experts if has_experts else DENSE)
        for has_attention, has_experts in kinds
    ]
    return hybrid_key_map(config, ENDS, layers)


def _mamba_keys(config: Fields) -> KeyMap:
    parts = MAMBA | (mamba.BIASES if config["mamba_proj_bias"] else {})
    parts |= mamba.CONV_BIAS if config["mamba_conv_bias"] else {}
    return {f"mamba.{theirs}": prefix("mixer", ours) for theirs, ours in parts.items()}


def _has_attention(config: Fields) -> list[bool]:
    period, offset = config["attn_layer_period"], config["attn_layer_offset"]
    return [index % period == offset for index in range(config["num_hidden_layers"])]


def _has_experts(config: Fields) -> list[bool]:
    period, offset = config["expert_layer_period"], config["expert_layer_offset"]
    return [config["num_experts"] > 1 and index % period == offset for index in range(config["num_hidden_layers"])]


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    full = {"window": "full", "window_size": config["max_position_embeddings"]}
    attention = _decoder.attention_config(config, {"attention": full, "position": {}})
    mixers = {True: attention | {"position": "none"}, False: _mamba_config(config)}
    sizes = (config["intermediate_size"], config["num_experts"], config["num_experts_per_tok"])
    ffns = {False: {"type": "swiglu"}}
    if any(_has_experts(config)):
        ffns[True] = experts_config(*sizes, normalize=False)
    runs = groupby(zip(_has_attention(config), _has_experts(config), strict=True))
    layers = [
        {"repeat": len(list(run)), "mixer": mixers[has_attention], "ffn": ffns[has_experts]}
        for (has_attention, has_experts), run in runs
    ]
    return _decoder.stack_config(config, layers)


def _mamba_config(config: Fields) -> dict[str, Any]:
    rank = config["mamba_dt_rank"]
    return {
        "type": "mamba",
        "state_dim": config["mamba_d_state"],
        "expand": config["mamba_expand"],
        "conv_size": config["mamba_d_conv"],
        "conv_bias": config["mamba_conv_bias"],
        "dt_rank": -(-config["hidden_size"] // 16) if rank == "auto" else rank,
        "bias": config["mamba_proj_bias"],
        "inner_norm": _decoder.rms(config, False),
    }


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    led, layers, experts = led_by(model, "attention"), whole_layers(model), experts_of(model)
    fields, sparse = _decoder.decoder_fields(led), [is_sparse(layer) for layer in layers]
    hidden_dim = experts["hidden_dim"] if is_sparse(led["layers"][0]) else fields["intermediate_size"]
    return (
        {name: value for name, value in fields.items() if name in FIELDS}
        | _mamba_fields(first_layer(model, "mamba").get("mixer", {}))
        | _every("attn_layer", [layer["mixer"]["type"] == "attention" for layer in layers])
        | _every("expert_layer", sparse)
        | {
            "intermediate_size": hidden_dim,
            "num_experts": experts["num_experts"] if any(sparse) else 1,
            "num_experts_per_tok": experts["top_k"],
        }
    )


def _every(name: str, flags: Sequence[bool]) -> dict[str, int]:
    """Return the period and the offset of the layers that a flag marks; beyond the last layer if none is."""
    marked = [index for index, flag in enumerate(flags) if flag]
    offset = marked[0] if marked else len(flags)
    period = marked[1] - offset if len(marked) > 1 else len(flags) + 1
    return {f"{name}_period": period, f"{name}_offset": offset}


def _mamba_fields(mixer: Fields) -> dict[str, Any]:
    rank = mixer.get("dt_rank")
    names = {"d_state": "state_dim", "d_conv": "conv_size", "expand": "expand", "conv_bias": "conv_bias"}
    own = {f"mamba_{theirs}": mixer[ours] for theirs, ours in {**names, "proj_bias": "bias"}.items() if ours in mixer}
    return own | {"mamba_dt_rank": "auto" if rank is None else rank}


FORMAT = CheckpointFormat(
    architecture="JambaForCausalLM",
    fields=FIELDS,
    fixed={"hidden_act": ("silu", "swish"), "mamba_inner_layernorms": (True,)},
    ignored=IGNORED,
    aliases={"num_local_experts": "num_experts"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=mamba.from_hf,
    to_hf=mamba.to_hf,
)
