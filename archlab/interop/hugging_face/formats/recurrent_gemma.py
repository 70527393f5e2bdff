"""RecurrentGemma as RecurrentGemmaForCausalLM: Griffin's recurrent blocks, and attention with a sliding window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder
from archlab.interop.hugging_face.formats._names import knob, num_layers
from archlab.interop.hugging_face.formats._rope import rope_fields, rope_position

FIELDS: dict[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 2560,
    "intermediate_size": 7680,
    "num_hidden_layers": 26,
    "num_attention_heads": 10,
    "num_key_value_heads": None,
    "lru_width": None,
    "attention_window_size": 2048,
    "conv1d_width": 4,
    "logits_soft_cap": 30.0,
    "rms_norm_eps": 1e-6,
    "block_types": ["recurrent", "recurrent", "attention"],
    "rope_parameters": None,
    "rope_theta": None,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "embeddings_scale_by_sqrt_dim": (True,),  # which the class always does
}
# The class computes head_dim from the heads and the layers' kinds from block_types, and has no longest text.
IGNORED = (
    "_block_types",
    "final_w_init_variance_scale",
    "head_dim",
    "layers_block_type",
    "max_position_embeddings",
    "w_init_variance_scale",
)
RECURRENT, SHARE = "recurrent", "partial_rotary_factor"
MOST_REPEATS = 100  # times that the class repeats block_types

KINDS = ("weight", "bias")
ENDS: KeyMap = {"model.embed_tokens.weight": "embedding.weight", "model.final_norm.weight": "norm.weight"}
LAYER: KeyMap = {
    "temporal_pre_norm.weight": "norm.weight",
    "channel_pre_norm.weight": "ffn_norm.weight",
    **{f"mlp_block.{part}_proj.{kind}": f"ffn.{part}.{kind}" for part in ("gate", "up", "down") for kind in KINDS},
}
BRANCHES = {"linear_y": "gate", "linear_x": "value", "linear_out": "out", "conv_1d": "ema"}
GATES = {"input_gate": "input_gate", "recurrent_gate": "decay_gate"}
GRIFFIN: KeyMap = {
    "rg_lru.recurrent_param": "rate",
    **{f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in BRANCHES.items() for kind in KINDS},
    **{f"rg_lru.{theirs}_{kind}": f"{ours}.{kind}" for theirs, ours in GATES.items() for kind in KINDS},
}
QKV = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    kinds = KINDS if config["attention_bias"] else ("weight",)
    attention = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in QKV.items() for kind in kinds}
    attention |= {f"o_proj.{kind}": f"out.{kind}" for kind in KINDS}
    names: KeyMap = dict(ENDS)
    for index, is_recurrent in enumerate(_pattern(config)):
        names |= {f"model.layers.{index}.{theirs}": f"blocks.{index}.{ours}" for theirs, ours in LAYER.items()}
        for theirs, ours in (GRIFFIN if is_recurrent else attention).items():
            names[f"model.layers.{index}.temporal_block.{theirs}"] = f"blocks.{index}.mixer.{ours}"
    return names if config["tie_word_embeddings"] else names | {"lm_head.weight": "head.weight"}


def _pattern(config: Fields) -> list[bool]:
    """Return for each layer whether it is recurrent; every other kind is attention, as in the class."""
    pattern = (list(config["block_types"]) * MOST_REPEATS)[: config["num_hidden_layers"]]
    if len(pattern) != config["num_hidden_layers"]:
        raise ArchlabError(f"block_types {config['block_types']!r} does not give {config['num_hidden_layers']} layers")
    return [kind == RECURRENT for kind in pattern]


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [size, D]."""
    return tensor[:, 0].T if name.endswith("conv_1d.weight") else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [D, 1, size]."""
    return tensor.T[:, None] if name.endswith("conv_1d.weight") else tensor


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    norm = _decoder.rms(config, True)
    layer = {"type": "block", "residual": "pre_norm", "norm": norm, "ffn_norm": norm, "ffn": _ffn(config)}
    mixers = {True: _griffin(config), False: _attention(config)}
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "embedding": {"type": "tokens"} | _scale(config["hidden_size"]),
        "layers": [layer | {"mixer": mixers[is_recurrent]} for is_recurrent in _pattern(config)],
        "norm": norm,
        "head": {
            "type": "language_model",
            "tied": config["tie_word_embeddings"],
            "soft_cap": config["logits_soft_cap"],
        },
    }


def _scale(dim: int) -> dict[str, Any]:
    # The class rounds sqrt(D) to bfloat16, whatever the dtype of its weights.
    rounded = torch.tensor(dim**0.5, dtype=torch.bfloat16).item()
    return {"scale": True} if rounded == dim**0.5 else {"factor": rounded}


def _ffn(config: Fields) -> dict[str, Any]:
    # The class halves the value in the file.
    return {"type": "geglu", "hidden_dim": config["intermediate_size"] // 2, "bias": True}


def _griffin(config: Fields) -> dict[str, Any]:
    return {
        "type": "rg_lru",
        "width": config["lru_width"] or config["hidden_size"],
        "num_heads": config["num_attention_heads"],
        "ema": {"type": "short_conv", "kernel_size": config["conv1d_width"], "bias": True},
    }


def _attention(config: Fields) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    return {
        "type": "attention",
        "num_heads": heads,
        "num_kv_heads": config["num_key_value_heads"] or heads,
        "head_dim": config["hidden_size"] // heads,
        "bias": config["attention_bias"],
        "out_bias": True,
        "attention": {
            "type": "softmax",
            "dropout": config["attention_dropout"],
            "window": "sliding",
            "window_size": config["attention_window_size"],
        },
        "position": _position(config),
    }


def _position(config: Fields) -> dict[str, Any]:
    rope = dict(config["rope_parameters"] or {})
    share = rope.pop(SHARE, config[SHARE])
    plain = {**config, "rope_parameters": rope, "max_position_embeddings": config["attention_window_size"]}
    rotated = {"interleaved": False, "fraction": 1.0 if share is None else share}
    return rope_position(plain, types=("default",)) | rotated


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layers = [layer for layer in model["layers"] for _ in range(layer.get("repeat", 1))]
    griffin: Fields = next((layer["mixer"] for layer in layers if layer["mixer"]["type"] == "rg_lru"), {})
    attention: Fields = next((layer["mixer"] for layer in layers if layer["mixer"]["type"] != "rg_lru"), {})
    heads = (attention or griffin).get("num_heads", 1)
    share, window = knob(attention, "position", "fraction", 1.0), attention.get("attention", {})
    return {
        "vocab_size": model["vocab_size"],
        "hidden_size": model["dim"],
        "intermediate_size": 2 * (layers[0]["ffn"].get("hidden_dim") or 8 * -(-model["dim"] // 3)),
        "num_hidden_layers": num_layers(model),
        "num_attention_heads": heads,
        "num_key_value_heads": attention.get("num_kv_heads") or heads,
        "lru_width": griffin.get("width") or model["dim"],
        "attention_window_size": window.get("window_size", 2048),
        "attention_dropout": window.get("dropout", 0.0),
        "attention_bias": attention.get("bias", False),
        "conv1d_width": knob(griffin, "ema", "kernel_size", 4),
        "logits_soft_cap": knob(model, "head", "soft_cap", None),
        "rms_norm_eps": layers[0]["norm"].get("eps", 1e-6),
        "block_types": [RECURRENT if layer["mixer"]["type"] == "rg_lru" else "attention" for layer in layers],
        "rope_parameters": rope_fields(attention.get("position", {})) | {SHARE: share},
        SHARE: share,
        "tie_word_embeddings": model["head"].get("tied", False),
        "hidden_activation": "gelu_pytorch_tanh",
    }


FORMAT = CheckpointFormat(
    architecture="RecurrentGemmaForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
