"""Mamba as MambaForCausalLM."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats._names import layer_keys, num_layers, prefix

FIELDS: dict[str, Any] = {
    "vocab_size": 50280,
    "hidden_size": 768,
    "state_size": 16,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "intermediate_size": None,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}
FIXED: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", "swish")}
IGNORED = (
    # Of the library that the checkpoints were converted from, beside the class's own names for the same sizes.
    "d_inner",
    "d_model",
    "n_layer",
    "residual_in_fp32",
    "rescale_prenorm_residual",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "use_associative_scan",
    "use_mambapy",
)
MIXER: KeyMap = {
    "A_log": "A_log",
    "D": "D",
    "in_proj.weight": ("x_proj.weight", "z_proj.weight"),
    "conv1d.weight": "conv.weight",
    "x_proj.weight": ("dt_down.weight", "B_proj.weight", "C_proj.weight"),
    "dt_proj.weight": "dt_proj.weight",
    "dt_proj.bias": "dt_proj.bias",
    "out_proj.weight": "out_proj.weight",
}
BIASES: KeyMap = {"in_proj.bias": ("x_proj.bias", "z_proj.bias"), "out_proj.bias": "out_proj.bias"}
CONV_BIAS: KeyMap = {"conv1d.bias": "conv.bias"}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    return mamba_key_map(config, MIXER | (BIASES if config["use_bias"] else {}))


def mamba_key_map(config: Fields, parts: KeyMap) -> KeyMap:
    """Map the tensor names of transformers to archlab's, given the map of a layer's mixer."""
    parts = parts | (CONV_BIAS if config["use_conv_bias"] else {})
    layer = {"norm.weight": "norm.weight"} | {f"mixer.{name}": prefix("mixer", ours) for name, ours in parts.items()}
    ends: KeyMap = {"backbone.embeddings.weight": "embedding.weight", "backbone.norm_f.weight": "norm.weight"}
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": "head.weight"}
    return ends | layer_keys(config["num_hidden_layers"], "backbone.layers", layer) | head


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [size, D]."""
    return tensor[:, 0].T if name.endswith("conv1d.weight") else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return a convolution's taps as [D, 1, size]."""
    return tensor.T[:, None] if name.endswith("conv1d.weight") else tensor


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    rank = config["time_step_rank"]
    own = {"type": "mamba", "dt_rank": -(-config["hidden_size"] // 16) if rank == "auto" else rank}
    return mamba_config({**config, "expand": _expand(config)}, own)


def _expand(config: Fields) -> int:
    """Return the ratio of the widths; the class takes the inner one from the file where it is beside `expand`."""
    inner, outer = config["intermediate_size"], config["hidden_size"]
    if inner is None:
        return config["expand"]
    if inner % outer:
        raise ArchlabError(f"intermediate_size {inner}: not represented, it is not a multiple of hidden_size {outer}")
    return inner // outer


def mamba_config(config: Fields, mixer: Fields) -> dict[str, Any]:
    """Return the YAML data of a stack of mixers without feed-forward layers."""
    norm = {"type": "rms", "eps": config["layer_norm_epsilon"], "zero_centered": False}
    shared = {
        "state_dim": config["state_size"],
        "expand": config["expand"],
        "conv_size": config["conv_kernel"],
        "conv_bias": config["use_conv_bias"],
        "bias": config["use_bias"],
    }
    layer = {
        "type": "block",
        "repeat": config["num_hidden_layers"],
        "residual": "pre_norm",
        "norm": norm,
        "mixer": shared | dict(mixer),
        "ffn_norm": "none",
        "ffn": "none",
    }
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "layers": [layer],
        "norm": norm,
        "head": {"type": "language_model", "tied": config["tie_word_embeddings"]},
    }


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    rank = model["layers"][0]["mixer"].get("dt_rank")
    return mamba_fields(model) | {"time_step_rank": "auto" if rank is None else rank}


def mamba_fields(model: Fields) -> dict[str, Any]:
    """Return the fields that Mamba and Mamba-2 share."""
    layer = model["layers"][0]
    mixer = layer["mixer"]
    return {
        "vocab_size": model["vocab_size"],
        "hidden_size": model["dim"],
        "state_size": mixer["state_dim"],
        "num_hidden_layers": num_layers(model),
        "layer_norm_epsilon": layer["norm"].get("eps", 1e-5),
        "expand": mixer["expand"],
        "conv_kernel": mixer["conv_size"],
        "use_bias": mixer["bias"],
        "use_conv_bias": mixer["conv_bias"],
        "hidden_act": "silu",
        "tie_word_embeddings": model["head"].get("tied", False),
    }


FORMAT = CheckpointFormat(
    architecture="MambaForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
