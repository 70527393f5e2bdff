"""Mamba-2 as Mamba2ForCausalLM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop.hugging_face import mamba
from archlab.interop.hugging_face.mamba import from_hf, to_hf

__all__ = [
    "ARCHITECTURE",
    "FIELDS",
    "FIXED",
    "IGNORED",
    "from_hf",
    "key_map",
    "to_archlab_config",
    "to_hf",
    "to_hf_config",
]

ARCHITECTURE = "Mamba2ForCausalLM"
FIELDS: dict[str, Any] = mamba.FIELDS | {
    "num_heads": 128,
    "head_dim": 64,
    "vocab_size": 32768,
    "hidden_size": 4096,
    "state_size": 128,
    "num_hidden_layers": 64,
    "n_groups": 8,
    "tie_word_embeddings": False,
    "time_step_limit": [0.0, {"__float__": "Infinity"}],  # as transformers writes what JSON has no word for
}
FIXED = mamba.FIXED
IGNORED = (*mamba.IGNORED, "chunk_size")
MIXER: dict[str, str | tuple[str, ...]] = {
    "A_log": "A_log",
    "D": "D",
    "dt_bias": "dt_bias",
    "in_proj.weight": ("z_proj.weight", "x_proj.weight", "B_proj.weight", "C_proj.weight", "dt_proj.weight"),
    "conv1d.weight": "conv.weight",
    "norm.weight": "scale",
    "out_proj.weight": "out_proj.weight",
}


def key_map(config: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """Return our name, or names, for each of theirs."""
    parts = dict(MIXER)
    if config["use_bias"]:
        several = ("z_proj.bias", "x_proj.bias", "B_proj.bias", "C_proj.bias", "dt_proj.bias")
        parts |= {"in_proj.bias": several, "out_proj.bias": "out_proj.bias"}
    return mamba.mamba_key_map(config, parts)


def to_archlab_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for what it cannot have."""
    limit = config["time_step_limit"]
    if [_number(end) for end in limit] != [0.0, math.inf]:
        raise ArchlabError(f"time_step_limit {limit}: not represented, only steps without a limit are")
    if config["num_heads"] * config["head_dim"] != config["expand"] * config["hidden_size"]:
        raise ArchlabError(f"num_heads {config['num_heads']} of {config['head_dim']} do not fill expand * hidden_size")
    own = {"head_dim": config["head_dim"], "num_groups": config["n_groups"], "eps": config["layer_norm_epsilon"]}
    return mamba.mamba_config(config, {"type": "mamba2"} | own)


def _number(value: Any) -> float:
    """Return a number, which is written as a mapping where JSON has no word for it."""
    return float(value["__float__"] if isinstance(value, Mapping) else value)


def to_hf_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a model's YAML data most resembles."""
    mixer = model["layers"][0]["mixer"]
    heads = mixer["expand"] * model["dim"] // mixer["head_dim"]
    own = {"num_heads": heads, "head_dim": mixer["head_dim"], "n_groups": mixer["num_groups"]}
    return mamba.mamba_fields(model) | own
