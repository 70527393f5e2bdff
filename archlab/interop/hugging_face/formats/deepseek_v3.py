"""DeepSeek-V3 as DeepseekV3ForCausalLM: latent attention, and experts of the best groups beside a shared one."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder
from archlab.interop.hugging_face.formats._experts import (
    expert_keys,
    experts_of,
    is_sparse,
    scored_config,
    scored_fields,
    shared_dim,
    sparse_key_map,
)
from archlab.interop.hugging_face.formats._names import first_mixer, layer_keys
from archlab.interop.hugging_face.formats._rope import mscale, rope_fields, rope_position
from archlab.interop.hugging_face.formats.olmoe import NAMES

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "max_position_embeddings": 4096,
    "attention_bias": False,
    "rope_interleave": True,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "qk_head_dim": None,
    "v_head_dim": 128,
    "first_k_dense_replace": 3,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
}
# Fields that the authors' files have, for features that the class always has.
FIXED: dict[str, tuple[Any, ...]] = _decoder.FIXED | {
    "hidden_act": ("silu", "swish"),
    "moe_layer_freq": (1,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
}
BLOCK = {theirs: ours for theirs, ours in _decoder.BLOCK.items() if not theirs.startswith("self_attn.")}
LATENT = {
    "self_attn.kv_a_layernorm": "mixer.latent_norm",
    "self_attn.kv_b_proj": "mixer.attention.up",
    "self_attn.o_proj": "mixer.out",
}
QUERY = {"self_attn.q_proj": "mixer.query_up"}
LATENT_QUERY = {
    "self_attn.q_a_proj": "mixer.query_down",
    "self_attn.q_a_layernorm": "mixer.query_norm",
    "self_attn.q_b_proj": "mixer.query_up",
}
BIAS: KeyMap = {"self_attn.o_proj.bias": "mixer.out.bias"}
LATENT_QUERY_BIAS: KeyMap = {"self_attn.q_a_proj.bias": "mixer.query_down.bias"}
ROUTER_BIAS = {"mlp.gate.e_score_correction_bias": "ffn.bias"}
SHARED = {f"mlp.shared_experts.{name}.weight": f"ffn.shared.{ours}.weight" for ours, name in NAMES.items()}
EXPERTS = {
    "hidden_dim": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "top_k": "num_experts_per_tok",
    "normalize": "norm_topk_prob",
    "scale": "routed_scaling_factor",
    "num_groups": "n_group",
    "top_groups": "topk_group",
}
LATENT_NORM = {"type": "rms", "eps": 1e-6, "zero_centered": False}  # whatever rms_norm_eps says


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    names = _decoder.key_map({**config, "attention_bias": False}, BLOCK)
    names |= layer_keys(config["num_hidden_layers"], "model.layers", attention_keys(config))
    experts = expert_keys("mlp", config["n_routed_experts"], NAMES) | ROUTER_BIAS | SHARED
    return sparse_key_map(names, range(_num_dense(config), config["num_hidden_layers"]), experts)


def attention_keys(config: Fields) -> KeyMap:
    """Return the names of a layer's attention, of which the projections to latents and the last one may have a bias."""
    has_latent, is_biased = config["q_lora_rank"] is not None, config["attention_bias"]
    parts = LATENT | (LATENT_QUERY if has_latent else QUERY)
    names: KeyMap = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in parts.items()}
    for kind in ("weight", "bias") if is_biased else ("weight",):
        names[f"self_attn.kv_a_proj_with_mqa.{kind}"] = (f"mixer.latent_down.{kind}", f"mixer.place_down.{kind}")
    biases = BIAS | (LATENT_QUERY_BIAS if has_latent else {})
    return names | (biases if is_biased else {})


def _num_dense(config: Fields) -> int:
    return min(max(0, int(config["first_k_dense_replace"])), int(config["num_hidden_layers"]))


def is_unread(config: Fields, name: str) -> bool:
    """Return whether a tensor is one of the layers that predict further tokens, after those of the model."""
    first, layer = config["num_hidden_layers"], name.removeprefix("model.layers.").partition(".")[0]
    is_layer = name.startswith("model.layers.") and layer.isdecimal()
    return is_layer and first <= int(layer) < first + (config["num_nextn_predict_layers"] or 0)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for an unsupported value."""
    _decoder.check_layer_types(config, sliding=False)
    width = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    derived = {
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["qk_rope_head_dim"],
        "qk_head_dim": width,
    }
    for field, value in derived.items():
        if config[field] not in (None, value):
            raise ArchlabError(f"{field} {config[field]!r}: not represented, only {value!r} is")
    shared = config["moe_intermediate_size"] * config["n_shared_experts"]
    mixer, ffn = _mixer(config, width), scored_config(config, EXPERTS, shared)
    runs = [(_num_dense(config), {"type": "swiglu"}), (config["num_hidden_layers"] - _num_dense(config), ffn)]
    layers = [{"repeat": length, "mixer": mixer, "ffn": ffn} for length, ffn in runs if length]
    return _decoder.stack_config(config, layers)


def _mixer(config: Fields, width: int) -> dict[str, Any]:
    position = rope_position(config) | {"interleaved": config["rope_interleave"]}
    latent = latent_config(config, window_size=config["max_position_embeddings"])
    return latent | {"scale": _scale(config, position, width), "position": position}


def latent_config(config: Fields, *, window_size: int) -> dict[str, Any]:
    """Return the YAML data of latent attention without positions."""
    return {
        "type": "mla",
        "num_heads": config["num_attention_heads"],
        "latent_dim": config["kv_lora_rank"],
        "query_latent_dim": config["q_lora_rank"],
        "head_dim": config["qk_nope_head_dim"],
        "position_dim": config["qk_rope_head_dim"],
        "value_head_dim": config["v_head_dim"],
        "norm": LATENT_NORM,
        "bias": config["attention_bias"],
        "dropout": config["attention_dropout"],
        "window": "full",
        "window_size": window_size,
        "position": "none",
    }


def _scale(config: Fields, position: Fields, width: int) -> float | None:
    """Return the factor of the scores, which YaRN may sharpen, or None for the usual one."""
    ropes = [config[field] or {} for field in ("rope_parameters", "rope_scaling")]
    strength = next((rope["mscale_all_dim"] for rope in ropes if rope.get("mscale_all_dim")), 0)
    length = mscale(position.get("factor", 1.0), strength)
    return None if length == 1 else width**-0.5 * length * length


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    mixer, layers = first_mixer(model, "mla"), sorted(model["layers"], key=is_sparse)
    dense = takewhile(lambda layer: not is_sparse(layer), model["layers"])
    # The fields are those of the first layer: with a dense ffn, if there is one.
    return (
        _decoder.decoder_fields({**model, "layers": layers})
        | scored_fields(model, EXPERTS)
        | {
            "attention_bias": mixer["bias"],
            "attention_dropout": mixer["dropout"],
            "hidden_act": "silu",
            "max_position_embeddings": mixer["window_size"],
            "num_key_value_heads": mixer["num_heads"],
            "kv_lora_rank": mixer["latent_dim"],
            "q_lora_rank": mixer["query_latent_dim"],
            "qk_rope_head_dim": mixer["position_dim"],
            "qk_nope_head_dim": mixer["head_dim"] or model["dim"] // mixer["num_heads"],
            "v_head_dim": mixer["value_head_dim"] or mixer["head_dim"] or model["dim"] // mixer["num_heads"],
            "head_dim": mixer["position_dim"],
            "rope_interleave": mixer["position"].get("interleaved", True),
            "rope_parameters": rope_fields(mixer["position"]) | _strength(model["dim"], mixer),
            "first_k_dense_replace": sum(layer.get("repeat", 1) for layer in dense),
            "num_nextn_predict_layers": 0,
            "n_shared_experts": shared_dim(model) // experts_of(model)["hidden_dim"],
        }
    )


def _strength(dim: int, mixer: Fields) -> dict[str, float]:
    """Return the strength of YaRN that gives the factor of the scores, rounded: reading it gives that very factor."""
    factor = mixer["position"].get("factor", 1.0)
    if mixer["scale"] is None or factor <= 1:
        return {}
    width = (mixer["head_dim"] or dim // mixer["num_heads"]) + mixer["position_dim"]
    length = math.sqrt(mixer["scale"] * math.sqrt(width))
    return {"mscale_all_dim": round((length - 1) / (0.1 * math.log(factor)), 12)}


FORMAT = CheckpointFormat(
    architecture="DeepseekV3ForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    # How many devices had a part each, and the losses of the balance, which are added where a model is trained.
    ignored=(*_decoder.IGNORED, "ep_size", "seq_aux", "aux_loss_alpha", "output_router_logits"),
    unread=is_unread,
    aliases={"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
