"""Mamba-2 as Mamba2ForCausalLM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import mamba

FIELDS: dict[str, Any] = mamba.FIELDS | {
    "num_heads": 128,
    "head_dim": 64,
    "vocab_size": 32768,
    "hidden_size": 4096,
    "state_size": 128,
    "num_hidden_layers": 64,
    "n_groups": 8,
    "tie_word_embeddings": False,
    "time_step_limit": [0.0, {"__float__": "Infinity"}],  # how transformers writes infinity, which JSON does not have
}
MIXER: KeyMap = {
    "A_log": "A_log",
    "D": "D",
    "dt_bias": "dt_bias",
    "in_proj.weight": ("z_proj.weight", "x_proj.weight", "B_proj.weight", "C_proj.weight", "dt_proj.weight"),
    "conv1d.weight": "conv.weight",
    "norm.weight": "scale",
    "out_proj.weight": "out_proj.weight",
}
BIASES: KeyMap = {
    "in_proj.bias": ("z_proj.bias", "x_proj.bias", "B_proj.bias", "C_proj.bias", "dt_proj.bias"),
    "out_proj.bias": "out_proj.bias",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    return mamba.mamba_key_map(config, MIXER | (BIASES if config["use_bias"] else {}))


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for an unsupported value."""
    check_steps(config)
    # The class computes the inner width from expand, whatever intermediate_size says.
    heads, size, width = config["num_heads"], config["head_dim"], config["expand"] * config["hidden_size"]
    if heads * size != width:
        raise ArchlabError(f"num_heads {heads} of {size} do not fill expand * hidden_size, {width}")
    own = {"head_dim": config["head_dim"], "num_groups": config["n_groups"], "eps": config["layer_norm_epsilon"]}
    return mamba.mamba_config(config, {"type": "mamba2"} | own)


def check_steps(config: Fields) -> None:
    """Raise ArchlabError for a limit of the steps."""
    limit = config["time_step_limit"]
    if [_number(end) for end in limit] != [0.0, math.inf]:
        raise ArchlabError(f"time_step_limit {limit}: not represented, only steps without a limit are")


def _number(value: Any) -> float:
    """Return a number from JSON, or from the mapping that stands for infinity."""
    return float(value["__float__"] if isinstance(value, Mapping) else value)


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    mixer = model["layers"][0]["mixer"]
    heads = mixer["expand"] * model["dim"] // mixer["head_dim"]
    own = {"num_heads": heads, "head_dim": mixer["head_dim"], "n_groups": mixer["num_groups"]}
    return mamba.mamba_fields(model) | own


FORMAT = CheckpointFormat(
    architecture="Mamba2ForCausalLM",
    fields=FIELDS,
    fixed=mamba.FIXED,
    ignored=(*mamba.IGNORED, "chunk_size", "norm_before_gate"),
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=mamba.from_hf,
    to_hf=mamba.to_hf,
)
