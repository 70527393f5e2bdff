"""Nemotron-H as NemotronHForCausalLM: Mamba-2, attention without positions, MLPs and experts, each a layer of theirs.

A mixer of theirs and the MLP or the experts behind it, each after a norm of its own, are one block here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, mamba, mamba2
from archlab.interop.hugging_face.formats._experts import MOE, scored_config, scored_fields, shared_dim
from archlab.interop.hugging_face.formats._hybrid import LINEAR, first_layer, whole_layers
from archlab.interop.hugging_face.formats._names import knob, prefix
from archlab.interop.hugging_face.formats._windows import FULL

MLP, NONE = "mlp", "none"
FIELDS: dict[str, Any] = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "num_hidden_layers": None,
    "layers_block_type": None,
    "hybrid_override_pattern": None,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "attention_dropout": 0.0,
    "intermediate_size": 21504,
    "mlp_bias": False,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "conv_kernel": 4,
    "expand": 2,
    "use_conv_bias": True,
    "use_bias": False,
    "layer_norm_epsilon": 1e-5,
    "time_step_min": 0.001,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "moe_latent_size": None,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mamba_hidden_act": ("silu", "swish"),
    "mlp_hidden_act": ("relu2",),
    "num_nextn_predict_layers": (0,),
    "tie_word_embeddings": (False,),  # the class ties nothing
}
# How it is computed, and how it was trained; of the shared experts the class has one, of the width that the file gives.
IGNORED = (
    "chunk_size",
    "hidden_dropout",
    "mamba_chunk_size",
    "mamba_dt_init_floor",
    "mamba_dt_limit",
    "mamba_dt_max",
    "mamba_proj_bias",
    "mamba_ssm_cache_dtype",
    "moe_shared_expert_overlap",
    "mtp_hybrid_override_pattern",
    "mtp_layers_block_type",
    "n_shared_experts",
    "norm_eps",
    "output_router_logits",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "rope_theta",  # the class has no positions
    "time_step_floor",
    "time_step_limit",
    "time_step_max",
    "use_mamba_kernels",
)
ALIASES = {
    "attention_head_dim": "head_dim",
    "layer_types": "layers_block_type",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_d_conv": "conv_kernel",
    "mamba_dt_min": "time_step_min",
    "mamba_expand": "expand",
    "mamba_n_groups": "n_groups",
    "num_local_experts": "n_routed_experts",
}
LETTERS = {"M": LINEAR, "*": FULL, "-": MLP, "E": MOE}
LEGACY = {"mamba": LINEAR, "attention": FULL}
MIXERS = {"mamba2": LINEAR, "attention": FULL}
EXPERTS = {
    "hidden_dim": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "top_k": "num_experts_per_tok",
    "latent_dim": "moe_latent_size",
    "normalize": "norm_topk_prob",
    "scale": "routed_scaling_factor",
    "num_groups": "n_group",
    "top_groups": "topk_group",
}
# Their sizes of the Mamba layers, and the knobs.
SIZES = {
    "ssm_state_size": "state_dim",
    "mamba_head_dim": "head_dim",
    "n_groups": "num_groups",
    "conv_kernel": "conv_size",
    "expand": "expand",
    "use_conv_bias": "conv_bias",
    "use_bias": "bias",
}
QKVO = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
ATTENTION: KeyMap = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in QKVO.items()}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    names: KeyMap = {"backbone.embeddings.weight": "embedding.weight", "backbone.norm_f.weight": "norm.weight"}
    mixers, layer = {FULL: ATTENTION, LINEAR: _mamba_keys(config)}, 0
    ffns = {MLP: _mlp_keys(config), MOE: _expert_keys(config)}
    for index, (kind, ffn) in enumerate(_blocks(config)):
        parts = [("norm", "mixer", mixers[kind])] + ([] if ffn == NONE else [("ffn_norm", "ffn", ffns[ffn])])
        for norm, module, own in parts:
            theirs, ours = f"backbone.layers.{layer}", f"blocks.{index}"
            names[f"{theirs}.norm.weight"] = f"{ours}.{norm}.weight"
            names |= {f"{theirs}.mixer.{name}": prefix(f"{ours}.{module}", part) for name, part in own.items()}
            layer += 1
    return names | {"lm_head.weight": "head.weight"}


def _mamba_keys(config: Fields) -> KeyMap:
    parts = mamba2.MIXER | (mamba2.BIASES if config["use_bias"] else {})
    return parts | (mamba.CONV_BIAS if config["use_conv_bias"] else {})


def _mlp_keys(config: Fields) -> KeyMap:
    kinds = ("weight", "bias") if config["mlp_bias"] else ("weight",)
    return {f"{part}_proj.{kind}": f"{part}.{kind}" for part in ("up", "down") for kind in kinds}


def _expert_keys(config: Fields) -> KeyMap:
    """Return the key map of a mixture: only the parts of every token, a shared expert and a latent, may have biases."""
    names: KeyMap = {
        f"experts.{index}.{part}_proj.weight": f"experts.{part}[{index}]"
        for index in range(config["n_routed_experts"])
        for part in ("up", "down")
    }
    names |= {"gate.weight": "router.weight", "gate.e_score_correction_bias": "bias"}
    names |= {f"shared_experts.{theirs}": f"shared.{ours}" for theirs, ours in _mlp_keys(config).items()}
    if config["moe_latent_size"] is None:
        return names
    kinds = ("weight", "bias") if config["mlp_bias"] else ("weight",)
    latent = {"fc1": "latent_down", "fc2": "latent_up"}
    return names | {f"{fc}_latent_proj.{kind}": f"{ours}.{kind}" for fc, ours in latent.items() for kind in kinds}


def _blocks(config: Fields) -> Iterator[tuple[str, str]]:
    """Yield the kind of each mixer, and of the ffn that follows it; raise ArchlabError for a list of other layers."""
    kinds = _kinds(config)
    for index, kind in enumerate(kinds):
        if kind in (LINEAR, FULL):
            following = kinds[index + 1] if index + 1 < len(kinds) else NONE
            yield kind, following if following in (MLP, MOE) else NONE
        elif kind not in (MLP, MOE):
            known = ", ".join(map(repr, (LINEAR, FULL, MLP)))
            raise ArchlabError(f"a layer {kind!r}: not represented, only {known} and {MOE!r} are")
        elif index == 0 or kinds[index - 1] in (MLP, MOE):
            raise ArchlabError(f"layer {index} is {kind!r}: not represented, only one after a mixer is")


def _kinds(config: Fields) -> list[str]:
    """Return the kind of each layer of theirs; raise ArchlabError where a file lists them twice, and differently."""
    listed, pattern, depth = config["layers_block_type"], config["hybrid_override_pattern"], config["num_hidden_layers"]
    if listed is None and pattern is None:
        raise ArchlabError("layers_block_type, or hybrid_override_pattern, is missing")
    kinds = [LETTERS.get(letter, letter) for letter in pattern or ""]
    named = kinds if listed is None else [LEGACY.get(kind, kind) for kind in listed]
    if pattern is not None and named != kinds:
        raise ArchlabError(f"hybrid_override_pattern {pattern!r} and layers_block_type are one value; leave one out")
    if depth not in (None, len(named)):
        raise ArchlabError(f"num_hidden_layers {depth} and the {len(named)} layers of the list are one value")
    return named


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    norm = {"type": "rms", "eps": config["layer_norm_epsilon"], "zero_centered": False}
    mlp = {"type": "mlp", "hidden_dim": config["intermediate_size"], "activation": "relu2", "bias": config["mlp_bias"]}
    ffns: dict[str, dict[str, Any]] = {
        NONE: {"ffn_norm": "none", "ffn": "none"},
        MLP: {"ffn_norm": norm, "ffn": mlp},
        MOE: {"ffn_norm": norm, "ffn": _expert_config(config)},
    }
    mixers = {FULL: _attention_config(config), LINEAR: _mamba_config(config)}
    block = {"type": "block", "residual": "pre_norm", "norm": norm}
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "layers": [
            {**block, "repeat": len(list(run)), "mixer": mixers[kind], **ffns[ffn]}
            for (kind, ffn), run in groupby(_blocks(config))
        ],
        "norm": norm,
        "head": "language_model",
    }


def _expert_config(config: Fields) -> dict[str, Any]:
    # The class gives a shared expert without a width that of an MLP.
    shared = config["moe_shared_expert_intermediate_size"] or config["intermediate_size"]
    return scored_config(config, EXPERTS, shared) | {"activation": "relu2", "dense_bias": config["mlp_bias"]}


def _attention_config(config: Fields) -> dict[str, Any]:
    full = {"window": "full", "window_size": config["max_position_embeddings"]}
    return _decoder.attention_config(config, {"attention": full, "position": {}}) | {"position": "none"}


def _mamba_config(config: Fields) -> dict[str, Any]:
    width, floor = config["mamba_num_heads"] * config["mamba_head_dim"], config["time_step_min"]
    sizes = {name: config[field] for field, name in SIZES.items()}
    # The class clamps steps to the bound that elsewhere is for initial ones alone, and ignores time_step_limit.
    own = {"width": width, "eps": config["layer_norm_epsilon"], "dt_floor": floor}
    return {"type": "mamba2"} | own | sizes


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layers, attention = whole_layers(model), first_layer(model, "attention")
    fields = _decoder.decoder_fields({**model, "layers": [attention]}) if attention else {}
    mlp: Fields = next((layer["ffn"] for layer in layers if layer["ffn"]["type"] == MLP), {})
    experts: Fields = next((layer["ffn"] for layer in layers if layer["ffn"]["type"] == MOE), {})
    return (
        {name: fields[name] for name in fields if name in FIELDS}
        | scored_fields(model, EXPERTS)
        | _mamba_fields(first_layer(model, "mamba2").get("mixer", {}), model["dim"])
        | {
            "vocab_size": model["vocab_size"],
            "hidden_size": model["dim"],
            "num_hidden_layers": None,
            "layers_block_type": [kind for layer in layers for kind in _theirs(layer)],
            "intermediate_size": mlp.get("hidden_dim") or 4 * model["dim"],
            "mlp_bias": mlp.get("bias", experts.get("dense_bias", False)),
            "moe_shared_expert_intermediate_size": shared_dim(model),
            "layer_norm_epsilon": knob(layers[0], "norm", "eps", 1e-5),
        }
    )


def _theirs(layer: Fields) -> list[str]:
    """Return the layers of theirs that a block is."""
    mixer, ffn = layer["mixer"]["type"], layer["ffn"]["type"]
    return [MIXERS.get(mixer, mixer)] + ([] if ffn == "none" else [ffn])


def _mamba_fields(mixer: Fields, dim: int) -> dict[str, Any]:
    if not mixer:
        return {}
    width = mixer["width"] or mixer["expand"] * dim
    return {field: mixer[name] for field, name in SIZES.items()} | {
        "mamba_num_heads": width // mixer["head_dim"],
        "time_step_min": mixer["dt_floor"] or FIELDS["time_step_min"],  # the class has no way to have none
    }


FORMAT = CheckpointFormat(
    architecture="NemotronHForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=IGNORED,
    aliases=ALIASES,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=mamba.from_hf,
    to_hf=mamba.to_hf,
)
