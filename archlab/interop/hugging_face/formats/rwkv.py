"""RWKV-4 as RwkvForCausalLM.

In evaluation that class halves the residual stream after every `rescale_every` layers, and scales the outputs of later
layers alike, against overflow in half precision. Only layer norms read the stream, and

    norm(x / s, eps) = (x/s - mean(x)/s) / sqrt(var(x)/s² + eps) = norm(x, s² eps),

so archlab's model has the same tensors, and an eps 4 times larger after each halving (s = 2).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats._names import knob, layer_keys

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
LAST_EPS = 1e-5
TOKEN_SHIFT = "time_mix"
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


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    head = {} if config["tie_word_embeddings"] else {"head.weight": "head.weight"}
    return {**ENDS, **layer_keys(config["num_hidden_layers"], "rwkv.blocks", BLOCK), **head}


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return token-shift weights as [D]."""
    return tensor.flatten() if TOKEN_SHIFT in name else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return token-shift weights as [1, 1, D]."""
    return tensor[None, None] if TOKEN_SHIFT in name else tensor


def to_archlab_config(config: Fields) -> dict[str, Any]:
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


def _halvings(config: Fields, num_layers: int) -> int:
    return num_layers // config["rescale_every"] if config["rescale_every"] > 0 else 0


def _layers(config: Fields) -> list[dict[str, Any]]:
    """Return one entry for each run of layers between two halvings."""
    halvings = [_halvings(config, layer) for layer in range(config["num_hidden_layers"])]
    return [_layer(config, times, halvings.count(times)) for times in sorted(set(halvings))]


def _layer(config: Fields, halvings: int, repeat: int) -> dict[str, Any]:
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


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
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


def _rescale_every(layers: list[Fields], last_eps: float) -> int:
    """Return the number of layers before the first larger eps, or 0 if there is none."""
    with_first_eps = sum(_eps(layer) == _eps(layers[0]) for layer in layers)
    return with_first_eps if with_first_eps < len(layers) or last_eps > LAST_EPS else 0


def _eps(layer: Fields) -> float:
    return knob(layer, "norm", "eps", LAST_EPS)


FORMAT = CheckpointFormat(
    architecture="RwkvForCausalLM",
    fields=FIELDS,
    ignored=("context_length",),
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
