"""Nemotron-H as NemotronHForCausalLM: Mamba-2, attention without positions and MLPs, each a layer of theirs.

A mixer of theirs and the MLP behind it, each after a norm of its own, are one block here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, mamba, mamba2
from archlab.interop.hugging_face.formats._hybrid import LINEAR, first_layer, whole_layers
from archlab.interop.hugging_face.formats._names import knob, prefixed
from archlab.interop.hugging_face.formats._windows import FULL

MLP = "mlp"
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
}
FIXED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mamba_hidden_act": ("silu", "swish"),
    "mlp_hidden_act": ("relu2",),
    "num_nextn_predict_layers": (0,),
    "tie_word_embeddings": (False,),  # the class ties nothing
}
# Sizes of experts, which a list of layers without any does not have, how it is computed, and how it was trained.
IGNORED = (
    "chunk_size",
    "hidden_dropout",
    "mamba_chunk_size",
    "mamba_dt_init_floor",
    "mamba_dt_limit",
    "mamba_dt_max",
    "mamba_proj_bias",
    "mamba_ssm_cache_dtype",
    "moe_intermediate_size",
    "moe_latent_size",
    "moe_shared_expert_intermediate_size",
    "moe_shared_expert_overlap",
    "mtp_hybrid_override_pattern",
    "mtp_layers_block_type",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_experts_per_tok",
    "output_router_logits",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "routed_scaling_factor",
    "time_step_floor",
    "time_step_limit",
    "time_step_max",
    "topk_group",
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
}
LETTERS = {"M": LINEAR, "*": FULL, "-": MLP, "E": "moe"}
LEGACY = {"mamba": LINEAR, "attention": FULL}
MIXERS = {"mamba2": LINEAR, "attention": FULL}
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
    """Return archlab's name, or names, for each of theirs."""
    names: KeyMap = {"backbone.embeddings.weight": "embedding.weight", "backbone.norm_f.weight": "norm.weight"}
    keys, layer = {FULL: ATTENTION, LINEAR: _mamba_keys(config)}, 0
    for index, (kind, has_mlp) in enumerate(_blocks(config)):
        parts = [("norm", "mixer", keys[kind])] + ([("ffn_norm", "ffn", _mlp_keys(config))] if has_mlp else [])
        for norm, module, own in parts:
            theirs, ours = f"backbone.layers.{layer}", f"blocks.{index}"
            names[f"{theirs}.norm.weight"] = f"{ours}.{norm}.weight"
            names |= {f"{theirs}.mixer.{name}": prefixed(f"{ours}.{module}", part) for name, part in own.items()}
            layer += 1
    return names | {"lm_head.weight": "head.weight"}


def _mamba_keys(config: Fields) -> KeyMap:
    parts = mamba2.MIXER | (mamba2.BIASES if config["use_bias"] else {})
    return parts | (mamba.CONV_BIAS if config["use_conv_bias"] else {})


def _mlp_keys(config: Fields) -> KeyMap:
    kinds = ("weight", "bias") if config["mlp_bias"] else ("weight",)
    return {f"{part}_proj.{kind}": f"{part}.{kind}" for part in ("up", "down") for kind in kinds}


def _blocks(config: Fields) -> Iterator[tuple[str, bool]]:
    """Yield the kind of each mixer, and whether an MLP follows it; raise ArchlabError for a list of other layers."""
    kinds = _kinds(config)
    for index, kind in enumerate(kinds):
        if kind in (LINEAR, FULL):
            yield kind, kinds[index + 1 : index + 2] == [MLP]
        elif kind != MLP:
            raise ArchlabError(f"a layer {kind!r}: not represented, only {LINEAR!r}, {FULL!r} and {MLP!r} are")
        elif index == 0 or kinds[index - 1] == MLP:
            raise ArchlabError(f"layer {index} is {MLP!r}: not represented, only one after a mixer is")


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
    with_mlp: dict[str, Any] = {"ffn_norm": norm, "ffn": mlp}
    ffns = {True: with_mlp, False: {"ffn_norm": "none", "ffn": "none"}}
    mixers = {FULL: _attention_config(config), LINEAR: _mamba_config(config)}
    block = {"type": "block", "residual": "pre_norm", "norm": norm}
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "layers": [
            {**block, "repeat": len(list(run)), "mixer": mixers[kind], **ffns[has_mlp]}
            for (kind, has_mlp), run in groupby(_blocks(config))
        ],
        "norm": norm,
        "head": "language_model",
    }


def _attention_config(config: Fields) -> dict[str, Any]:
    full = {"window": "full", "window_size": config["max_position_embeddings"]}
    return _decoder.attention_config(config, {"attention": full, "position": {}}) | {"position": "none"}


def _mamba_config(config: Fields) -> dict[str, Any]:
    width, floor = config["mamba_num_heads"] * config["mamba_head_dim"], config["time_step_min"]
    sizes = {name: config[field] for field, name in SIZES.items()}
    # The class raises smaller steps to what elsewhere bounds initial ones alone, and reads no time_step_limit.
    own = {"width": width, "eps": config["layer_norm_epsilon"], "dt_floor": floor}
    return {"type": "mamba2"} | own | sizes


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layers, attention = whole_layers(model), first_layer(model, "attention")
    fields = _decoder.decoder_fields({**model, "layers": [attention]}) if attention else {}
    mlp: Fields = next((layer["ffn"] for layer in layers if layer["ffn"]["type"] == MLP), {})
    return (
        {name: fields[name] for name in fields if name in FIELDS}
        | _mamba_fields(first_layer(model, "mamba2").get("mixer", {}), model["dim"])
        | {
            "vocab_size": model["vocab_size"],
            "hidden_size": model["dim"],
            "num_hidden_layers": None,
            "layers_block_type": [kind for layer in layers for kind in _theirs(layer)],
            "intermediate_size": mlp.get("hidden_dim") or 4 * model["dim"],
            "mlp_bias": mlp.get("bias", False),
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
