"""RWKV-4 as RwkvForCausalLM.

In evaluation that class halves the residual stream after every `rescale_every` layers and divides what later layers
add to it alike, against overflow in half precision. All that reads the stream is a layer norm, and a norm of x / s
with eps is a norm of x with s² eps: the tensors are the same, and later norms have a larger eps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from archlab.interop.hugging_face._names import knob

ARCHITECTURE = "RwkvForCausalLM"
FIELDS: dict[str, Any] = {
    "vocab_size": 50277,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "attention_hidden_size": None,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-5,
    "rescale_every": 6,
    "tie_word_embeddings": False,
}
FIXED: dict[str, tuple[Any, ...]] = {}
IGNORED = ("context_length",)
LAST_EPS = 1e-5
SHARES = "time_mix"
BLOCK = {
    "ln1.weight": "norm.weight",
    "ln1.bias": "norm.bias",
    "ln2.weight": "ffn_norm.weight",
    "ln2.bias": "ffn_norm.bias",
    "attention.time_decay": "mixer.decay",
    "attention.time_first": "mixer.bonus",
    "attention.time_mix_key": "mixer.key_mix",
    "attention.time_mix_value": "mixer.value_mix",
    "attention.time_mix_receptance": "mixer.receptance_mix",
    "attention.key.weight": "mixer.key.weight",
    "attention.value.weight": "mixer.value.weight",
    "attention.receptance.weight": "mixer.receptance.weight",
    "attention.output.weight": "mixer.out.weight",
    "feed_forward.time_mix_key": "ffn.key_mix",
    "feed_forward.time_mix_receptance": "ffn.receptance_mix",
    "feed_forward.key.weight": "ffn.key.weight",
    "feed_forward.receptance.weight": "ffn.receptance.weight",
    "feed_forward.value.weight": "ffn.out.weight",
}
ENDS = {
    "rwkv.embeddings.weight": "embedding.weight",
    "rwkv.blocks.0.pre_ln.weight": "embedding_norm.weight",
    "rwkv.blocks.0.pre_ln.bias": "embedding_norm.bias",
    "rwkv.ln_out.weight": "norm.weight",
    "rwkv.ln_out.bias": "norm.bias",
}


def key_map(config: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """Return our name for each of theirs."""
    found: dict[str, str | tuple[str, ...]] = {**ENDS}
    for layer in range(config["num_hidden_layers"]):
        found |= {f"rwkv.blocks.{layer}.{theirs}": f"blocks.{layer}.{ours}" for theirs, ours in BLOCK.items()}
    return found if config["tie_word_embeddings"] else found | {"head.weight": "head.weight"}


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return what a channel shares with the past as a vector."""
    return tensor.flatten() if SHARES in name else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return what a channel shares with the past as [1, 1, D]."""
    return tensor[None, None] if SHARES in name else tensor


def to_archlab_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "embedding_norm": _norm(config["layer_norm_epsilon"]),
        "layers": _layers(config),
        "norm": _norm(LAST_EPS * 4 ** _halvings(config, config["num_hidden_layers"])),
        "head": {"type": "language_model", "tied": config["tie_word_embeddings"]},
    }


def _halvings(config: Mapping[str, Any], num_layers: int) -> int:
    return num_layers // config["rescale_every"] if config["rescale_every"] > 0 else 0


def _layers(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return an entry for the layers between two halvings."""
    halvings = [_halvings(config, layer) for layer in range(config["num_hidden_layers"])]
    return [_layer(config, times, halvings.count(times)) for times in sorted(set(halvings))]


def _layer(config: Mapping[str, Any], halvings: int, repeat: int) -> dict[str, Any]:
    norm = _norm(config["layer_norm_epsilon"] * 4**halvings)
    return {
        "type": "block",
        "repeat": repeat,
        "residual": "pre_norm",
        "norm": norm,
        "mixer": {"type": "rwkv4", "hidden_dim": config["attention_hidden_size"]},
        "ffn_norm": norm,
        "ffn": {"type": "rwkv4", "hidden_dim": config["intermediate_size"]},
    }


def _norm(eps: float) -> dict[str, Any]:
    return {"type": "layer", "eps": eps, "zero_centered": False}


def to_hf_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a model's YAML data most resembles."""
    layers = [layer for layer in model["layers"] for _ in range(layer.get("repeat", 1))]
    return {
        "vocab_size": model["vocab_size"],
        "hidden_size": model["dim"],
        "num_hidden_layers": len(layers),
        "attention_hidden_size": knob(layers[0], "mixer", "hidden_dim", None),
        "intermediate_size": knob(layers[0], "ffn", "hidden_dim", None),
        "layer_norm_epsilon": _eps(layers[0]),
        "rescale_every": _rescale_every(layers, knob(model, "norm", "eps", LAST_EPS)),
        "tie_word_embeddings": knob(model, "head", "tied", False),
    }


def _rescale_every(layers: list[Mapping[str, Any]], last_eps: float) -> int:
    """Return the number of layers before the first larger eps, or 0 where none is."""
    like_the_first = sum(_eps(layer) == _eps(layers[0]) for layer in layers)
    return like_the_first if like_the_first < len(layers) or last_eps > LAST_EPS else 0


def _eps(layer: Mapping[str, Any]) -> float:
    return knob(layer, "norm", "eps", LAST_EPS)
