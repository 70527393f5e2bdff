"""Kimi Linear as KimiLinearForCausalLM: Kimi Delta Attention and latent attention without positions, with experts."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from torch import Tensor

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _kimi_layers, deepseek_v3, mixtral
from archlab.interop.hugging_face.formats._experts import (
    expert_keys,
    experts_of,
    is_sparse,
    scored_config,
    scored_fields,
    shared_dim,
)
from archlab.interop.hugging_face.formats._hybrid import LINEAR, first_layer, hybrid_key_map, whole_layers
from archlab.interop.hugging_face.formats._kimi_layers import DENSE, SPARSE, layer_kinds
from archlab.interop.hugging_face.formats._names import knob
from archlab.interop.hugging_face.formats._windows import FULL

# Not read, but written as null: a file without them has these, which a smaller vocabulary lacks.
TOKENS = {"bos_token_id": 163584, "eos_token_id": 163586, "pad_token_id": 163839}
FIELDS: dict[str, Any] = {
    "vocab_size": 163840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "model_max_length": 1048576,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "layer_types": None,
    "linear_attn_config": None,
    "linear_head_dim": 128,
    "linear_num_heads": 32,
    "linear_conv_kernel_dim": 4,
    "mlp_layer_types": None,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 1024,
    "num_experts": 256,
    "num_shared_experts": 1,
    "num_experts_per_token": 8,
    "num_expert_group": 1,
    "topk_group": 1,
    "moe_renormalize": True,
    "routed_scaling_factor": 2.446,
    **TOKENS,
}
# Fields that the authors' files have, for features that the class always has.
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "mla_use_nope": (True,),
    "moe_layer_freq": (1,),
    "moe_router_activation_func": ("sigmoid",),
    "num_nextn_predict_layers": (0,),
    "use_grouped_topk": (True,),
}
# The class has no positions, makes head_dim and qk_head_dim of other fields, and ties nothing, whatever a file says.
IGNORED = (
    *_decoder.IGNORED,
    "head_dim",
    "output_router_logits",
    "qk_head_dim",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
)
ALIASES = {
    "max_position_embeddings": "model_max_length",
    "n_group": "num_expert_group",
    "n_shared_experts": "num_shared_experts",
    "norm_topk_prob": "moe_renormalize",
    "num_experts_per_tok": "num_experts_per_token",
    "num_local_experts": "num_experts",
}
EXPERTS = {
    "hidden_dim": "moe_intermediate_size",
    "num_experts": "num_experts",
    "top_k": "num_experts_per_token",
    "normalize": "moe_renormalize",
    "scale": "routed_scaling_factor",
    "num_groups": "num_expert_group",
    "top_groups": "topk_group",
}
ENDS: KeyMap = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "norm.weight"}
NORMS: KeyMap = {"input_layernorm.weight": "norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight"}
PARTS = {"q": "query", "k": "key", "v": "value"}
DELTA: KeyMap = {
    **{f"self_attn.{letter}_proj.weight": f"mixer.{part}.map.weight" for letter, part in PARTS.items()},
    **{f"self_attn.{letter}_conv1d.weight": f"mixer.{part}.ema.weight[T]" for letter, part in PARTS.items()},
    "self_attn.A_log": "mixer.log_rate",
    "self_attn.dt_bias": "mixer.decay.1.bias",
    "self_attn.f_a_proj.weight": "mixer.decay.0.weight",
    "self_attn.f_b_proj.weight": "mixer.decay.1.weight",
    "self_attn.b_proj.weight": "mixer.fraction.weight",
    "self_attn.g_a_proj.weight": "mixer.gate.0.weight",
    "self_attn.g_b_proj.weight": "mixer.gate.1.weight",
    "self_attn.o_norm.weight": "mixer.mixed.norm.weight",
    "self_attn.o_proj.weight": "mixer.mixed.out.weight",
}
GATED = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
MLP: KeyMap = {f"mlp.{theirs}.weight": f"ffn.{ours}.weight" for theirs, ours in GATED.items()}
SHARED: KeyMap = {
    f"{mixtral.THEIRS}.shared_experts.{theirs}.weight": f"ffn.shared.{ours}.weight" for theirs, ours in GATED.items()
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    experts = expert_keys(mixtral.THEIRS, config["num_experts"], mixtral.NAMES)
    experts |= {f"{mixtral.THEIRS}.gate.e_score_correction_bias": "ffn.bias"} | SHARED
    mixers, ffns = {FULL: deepseek_v3.attention_keys(config), LINEAR: DELTA}, {DENSE: MLP, SPARSE: experts}
    layers = [NORMS | mixers[mixer] | ffns[ffn] for mixer, ffn in layer_kinds(config)]
    return hybrid_key_map({"tie_word_embeddings": False}, ENDS, layers)


def other_name(name: str) -> str:
    """Return the name that transformers gives to a tensor of a dense MLP, where the authors' files have `mlp`."""
    return name.replace(".mlp.", f".{mixtral.THEIRS}.")


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [D, size], and rates [1, 1, H, 1] as [H]."""
    if name.endswith("A_log"):
        return tensor[0, 0, :, 0]
    return tensor[:, 0] if name.endswith("conv1d.weight") else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [D, 1, size], and rates [H] as [1, 1, H, 1]."""
    if name.endswith("A_log"):
        return tensor[None, None, :, None]
    return tensor[:, None] if name.endswith("conv1d.weight") else tensor


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    heads = config["num_attention_heads"]
    if config["num_key_value_heads"] not in (None, heads):
        raise ArchlabError(f"num_key_value_heads {config['num_key_value_heads']!r}: not represented, only {heads} is")
    shared = config["moe_intermediate_size"] * config["num_shared_experts"]
    latent = deepseek_v3.latent_config(config, window_size=config["model_max_length"])
    mixers = {FULL: latent, LINEAR: _delta_config(config)}
    ffns = {DENSE: {"type": "swiglu"}, SPARSE: scored_config(config, EXPERTS, shared)}
    layers = [
        {"repeat": len(list(run)), "mixer": mixers[mixer], "ffn": ffns[ffn]}
        for (mixer, ffn), run in groupby(layer_kinds(config))
    ]
    return _decoder.stack_config({**config, "tie_word_embeddings": False}, layers)


def _delta_config(config: Fields) -> dict[str, Any]:
    heads, head_dim, size = _kimi_layers.delta_sizes(config)
    return {
        "type": "kimi_delta_attention",
        "num_heads": heads,
        "key_dim": heads * head_dim,
        "value_dim": heads * head_dim,
        "rank": head_dim,
        "ema": {"type": "short_conv", "kernel_size": size, "bias": False},
        "eps": config["rms_norm_eps"],
        "zero_centered": False,
    }


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layers = whole_layers(model)
    dense: Fields = next((layer["ffn"] for layer in layers if not is_sparse(layer)), {})
    latent, delta = (first_layer(model, name).get("mixer", {}) for name in ("mla", "kimi_delta_attention"))
    return (
        scored_fields(model, EXPERTS)
        | _latent_fields(latent, model["dim"])
        | _delta_fields(delta, model["dim"])
        | {
            "vocab_size": model["vocab_size"],
            "hidden_size": model["dim"],
            "intermediate_size": dense.get("hidden_dim") or 8 * -(-model["dim"] // 3),
            "num_hidden_layers": len(layers),
            "layer_types": [FULL if layer["mixer"]["type"] == "mla" else LINEAR for layer in layers],
            "mlp_layer_types": [SPARSE if is_sparse(layer) else DENSE for layer in layers],
            "num_shared_experts": shared_dim(model) // experts_of(model)["hidden_dim"] or 1,
            "rms_norm_eps": knob(layers[0], "norm", "eps", 1e-6),
            "hidden_act": "silu",
        }
        | dict.fromkeys(TOKENS)
    )


def _latent_fields(mixer: Fields, dim: int) -> dict[str, Any]:
    if not mixer:
        return {}
    head_dim = mixer["head_dim"] or dim // mixer["num_heads"]
    return {
        "num_attention_heads": mixer["num_heads"],
        "num_key_value_heads": mixer["num_heads"],
        "kv_lora_rank": mixer["latent_dim"],
        "q_lora_rank": mixer["query_latent_dim"],
        "qk_nope_head_dim": head_dim,
        "qk_rope_head_dim": mixer["position_dim"],
        "v_head_dim": mixer["value_head_dim"] or head_dim,
        "attention_bias": mixer["bias"],
        "attention_dropout": mixer["dropout"],
        "model_max_length": mixer["window_size"],
    }


def _delta_fields(mixer: Fields, dim: int) -> dict[str, Any]:
    if not mixer:
        return {}
    return {
        "linear_num_heads": mixer["num_heads"],
        "linear_head_dim": (mixer["value_dim"] or dim) // mixer["num_heads"],
        "linear_conv_kernel_dim": knob(mixer, "ema", "kernel_size", 4),
    }


FORMAT = CheckpointFormat(
    architecture="KimiLinearForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=IGNORED,
    other_name=other_name,
    aliases=ALIASES,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
