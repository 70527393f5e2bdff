"""Qwen3-Next as Qwen3NextForCausalLM: Gated DeltaNet in most layers, gated attention in the others, and experts."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from torch import Tensor

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, qwen2_moe, qwen3_moe
from archlab.interop.hugging_face.formats._experts import (
    MOE,
    expert_keys,
    is_sparse,
    sparse_key_map,
)
from archlab.interop.hugging_face.formats._names import knob, prefix, rows_in_turn
from archlab.interop.hugging_face.formats._rope import SHARE, partial_position, rope_fields
from archlab.interop.hugging_face.formats._windows import FULL
from archlab.interop.hugging_face.formats.olmoe import NAMES

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    SHARE: 0.25,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "norm_topk_prob": True,
}
LINEAR = "linear_attention"
BLOCK = {theirs: ours for theirs, ours in _decoder.BLOCK.items() if not theirs.startswith("self_attn.")}
NORMS = {"self_attn.q_norm.weight": "mixer.query_norm.weight", "self_attn.k_norm.weight": "mixer.key_norm.weight"}
OTHERS = {"k": "key", "v": "value", "o": "out"}
DELTA: KeyMap = {
    "linear_attn.A_log": "mixer.log_rate",
    "linear_attn.dt_bias": "mixer.step.bias",
    "linear_attn.norm.weight": "mixer.mixed.norm.weight",
    "linear_attn.out_proj.weight": "mixer.mixed.out.weight",
    "linear_attn.conv1d.weight": tuple(f"mixer.{part}.ema.weight[T]" for part in ("query", "key", "value")),
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    names, mixers = _decoder.key_map(config, BLOCK), {FULL: _attention_keys(config), LINEAR: _delta_keys(config)}
    for index, kind in enumerate(_kinds(config)):
        parts = {theirs: prefix(f"blocks.{index}", ours) for theirs, ours in mixers[kind].items()}
        names |= {f"model.layers.{index}.{theirs}": ours for theirs, ours in parts.items()}
    sparse = [index for index, has_experts in enumerate(qwen3_moe.has_experts(config)) if has_experts]
    experts = expert_keys("mlp", config["num_experts"], NAMES) | qwen2_moe.SHARED
    return sparse_key_map(names, sparse, experts)


def _attention_keys(config: Fields) -> KeyMap:
    names: KeyMap = dict(NORMS)
    for kind in ("weight", "bias") if config["attention_bias"] else ("weight",):
        names |= {f"self_attn.{letter}_proj.{kind}": f"mixer.{ours}.{kind}" for letter, ours in OTHERS.items()}
        # Each head's query, then its gate.
        sizes = dict.fromkeys((f"mixer.query.{kind}", f"mixer.gate.{kind}"), _head_dim(config))
        names[f"self_attn.q_proj.{kind}"] = rows_in_turn(sizes, config["num_attention_heads"])
    return names


def _delta_keys(config: Fields) -> KeyMap:
    """Return the key map of a layer; theirs holds each key head's queries, keys, values and gates side by side."""
    heads, share = config["linear_num_key_heads"], _values_per_key(config)
    keys, values = config["linear_key_head_dim"], share * config["linear_value_head_dim"]
    sizes = {"query.map": keys, "key.map": keys, "value.map": values, "mixed.gate": values}
    projections = {"qkvz": sizes, "ba": {"fraction": share, "step": share}}
    return DELTA | {
        f"linear_attn.in_proj_{theirs}.weight": rows_in_turn({f"mixer.{p}.weight": n for p, n in parts.items()}, heads)
        for theirs, parts in projections.items()
    }


def _values_per_key(config: Fields) -> int:
    return int(config["linear_num_value_heads"] // config["linear_num_key_heads"])


def _head_dim(config: Fields) -> int:
    return int(config["head_dim"] or config["hidden_size"] // config["num_attention_heads"])


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [D, size]."""
    return tensor[:, 0] if name.endswith("conv1d.weight") else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [D, 1, size]."""
    return tensor[:, None] if name.endswith("conv1d.weight") else tensor


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    mixers, ffns = (
        {FULL: _attention(config), LINEAR: _delta(config)},
        {True: qwen2_moe.shared_experts_config(config), False: {"type": "swiglu"}},
    )
    parts = zip(_kinds(config), qwen3_moe.has_experts(config), strict=True)
    runs = [(len(list(run)), *kinds) for kinds, run in groupby(parts)]
    layers = [{"repeat": length, "mixer": mixers[kind], "ffn": ffns[sparse]} for length, kind, sparse in runs]
    return _decoder.stack_config(config, layers, zero_centered=True)


def _kinds(config: Fields) -> list[str]:
    """Return the mixer of each layer: every fourth one attends, unless the configuration says otherwise."""
    layers, every = config["num_hidden_layers"], config["full_attention_interval"]
    kinds = config["layer_types"] or [LINEAR if (index + 1) % every else FULL for index in range(layers)]
    if len(kinds) != layers:
        raise ArchlabError(f"layer_types has {len(kinds)} entries for num_hidden_layers {layers}")
    for kind in kinds:
        if kind not in (LINEAR, FULL):
            raise ArchlabError(f"layer_types {kind!r}: not represented, only {LINEAR!r} and {FULL!r} are")
    return list(kinds)


def _attention(config: Fields) -> dict[str, Any]:
    return {
        "attention": {"window": "full", "window_size": config["max_position_embeddings"]},
        "position": partial_position(config, FIELDS[SHARE]),
        "qk_norm": _decoder.rms(config, True),
        "output_gate": "feature",
    }


def _delta(config: Fields) -> dict[str, Any]:
    heads, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    if values % heads:
        raise ArchlabError(f"linear_num_value_heads {values} is not divisible by linear_num_key_heads {heads}")
    return {
        "type": "gated_delta_net",
        "num_heads": heads,
        "values_per_key": _values_per_key(config),
        "key_dim": heads * config["linear_key_head_dim"],
        "value_dim": values * config["linear_value_head_dim"],
        "ema": {"type": "short_conv", "kernel_size": config["linear_conv_kernel_dim"], "bias": False},
        "negative_eigenvalues": False,
        "eps": config["rms_norm_eps"],
        "zero_centered": False,
    }


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layers = [layer for layer in model["layers"] for _ in range(layer.get("repeat", 1))]
    kinds = [FULL if layer["mixer"]["type"] == "attention" else LINEAR for layer in layers]
    mixers = {kind: layer["mixer"] for kind, layer in reversed(list(zip(kinds, layers, strict=True)))}
    # The fields are those of one layer: which attends, if any does, and has a dense ffn, if any has.
    ffn = min((layer["ffn"] for layer in layers), key=lambda ffn: bool(ffn["type"] == MOE))
    first = layers[0] | {"mixer": mixers.get(FULL, mixers.get(LINEAR)), "ffn": ffn}
    fields = _decoder.decoder_fields({**model, "layers": [first]}) | qwen2_moe.shared_experts_fields(model)
    fields |= _attention_fields(mixers.get(FULL, {})) | _delta_fields(model["dim"], mixers.get(LINEAR))
    return fields | {
        "num_hidden_layers": len(layers),
        "hidden_act": "silu",
        "layer_types": kinds,
        "mlp_only_layers": [index for index, layer in enumerate(layers) if not is_sparse(layer)],
    }


def _attention_fields(mixer: Fields) -> dict[str, Any]:
    position = mixer.get("position", {})
    share = position.get("fraction", 1.0)
    rope = rope_fields(position) | {SHARE: share}
    return {"attention_bias": mixer.get("bias", False), "rope_parameters": rope, SHARE: share}


def _delta_fields(dim: int, mixer: Fields | None) -> dict[str, Any]:
    if mixer is None or mixer["type"] != "gated_delta_net":
        return {}
    heads, values = mixer["num_heads"], mixer["num_heads"] * mixer["values_per_key"]
    return {
        "linear_conv_kernel_dim": knob(mixer, "ema", "kernel_size", 4),
        "linear_num_key_heads": heads,
        "linear_num_value_heads": values,
        "linear_key_head_dim": (mixer["key_dim"] or max(1, 3 * dim // 4)) // heads,
        "linear_value_head_dim": (mixer["value_dim"] or max(1, 3 * dim // 2)) // values,
    }


def is_unread(config: Fields, name: str) -> bool:
    """Return whether a tensor is one of the module that predicts further tokens."""
    return name.startswith("mtp.")


FORMAT = CheckpointFormat(
    architecture="Qwen3NextForCausalLM",
    fields=FIELDS,
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish")},
    # The loss of the balance is added where a model is trained.
    ignored=(*_decoder.IGNORED, "router_aux_loss_coef", "output_router_logits"),
    unread=is_unread,
    aliases={"num_local_experts": "num_experts"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
