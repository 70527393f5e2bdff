"""ViT as ViTForImageClassification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats._names import knob, layer_keys, num_layers

CLASS_TOKENS = ["cls_token"]
FIELDS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "id2label": None,
    "num_labels": None,
}
NUM_LABELS = 2  # where neither is given
FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "relu", "silu"),
    "hidden_dropout_prob": (0.0,),
    "qkv_bias": (True,),
}
PARTS = {
    "layernorm_before": "norm",
    "attention.attention.query": "mixer.query",
    "attention.attention.key": "mixer.key",
    "attention.attention.value": "mixer.value",
    "attention.output.dense": "mixer.out",
    "layernorm_after": "ffn_norm",
    "intermediate.dense": "ffn.up",
    "output.dense": "ffn.down",
}
# The leading axes of size 1 that a tensor has in transformers and not here.
LEADING_AXES = {"cls_token": 2, "distillation_token": 2, "position_embeddings": 1}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    return vit_key_map(config, "vit", CLASS_TOKENS)


def vit_key_map(config: Fields, model: str, class_tokens: Sequence[str]) -> KeyMap:
    """Return archlab's name for each of theirs below the module `model`, which names its class tokens like this."""
    tokens = {f"{model}.embeddings.{name}": f"embedding.class_tokens.{i}" for i, name in enumerate(class_tokens)}
    patches, position = (
        f"{model}.embeddings.{name}" for name in ("patch_embeddings.projection", "position_embeddings")
    )
    ends = _with_bias({patches: "embedding", f"{model}.layernorm": "norm", "classifier": "head"})
    layers = layer_keys(config["num_hidden_layers"], f"{model}.encoder.layer", _with_bias(PARTS))
    return {**tokens, position: "position.weight", **ends, **layers}


def _with_bias(modules: dict[str, str]) -> dict[str, str]:
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in modules.items() for kind in ("weight", "bias")}


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return class tokens as vectors and positions as a matrix."""
    for _ in range(_leading_axes(name)):
        tensor = tensor.squeeze(0)
    return tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return class tokens as [1, 1, D] and positions as [1, N, D]."""
    return tensor[(None,) * _leading_axes(name)]


def _leading_axes(name: str) -> int:
    return LEADING_AXES.get(name.rpartition(".")[2], 0)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    return vit_config(config, len(CLASS_TOKENS))


def vit_config(config: Fields, class_tokens: int) -> dict[str, Any]:
    """Return the YAML data of a ViT; raise ArchlabError for images or patches that are not square."""
    image, patch = (_side(config, field) for field in ("image_size", "patch_size"))
    if image % patch:
        raise ArchlabError(f"image_size {image}: not represented, it is not a multiple of patch_size {patch}")
    patches = {"patch_size": patch, "num_channels": config["num_channels"], "class_tokens": class_tokens}
    return {
        "type": "stack",
        "dim": config["hidden_size"],
        "embedding": {"type": "patches"} | patches,
        "position": {"type": "learned", "max_length": class_tokens + (image // patch) ** 2},
        "layers": [_layer(config)],
        "norm": _norm(config),
        "head": {"type": "classifier", "num_outputs": _num_labels(config), "pool": "first"},
    }


def _num_labels(config: Fields) -> int:
    names, count = config["id2label"], config["num_labels"]
    counts = [number for number in (None if names is None else len(names), count) if number is not None]
    if len(set(counts)) > 1:
        raise ArchlabError(f"id2label of {counts[0]} labels and num_labels {counts[1]} are one value; leave one out")
    return counts[0] if counts else NUM_LABELS


def _side(config: Fields, field: str) -> int:
    sides = config[field] if isinstance(config[field], list | tuple) else [config[field]]
    if len(set(sides)) != 1:
        raise ArchlabError(f"{field} {config[field]}: not represented, images and patches are squares")
    return sides[0]


def _layer(config: Fields) -> dict[str, Any]:
    attention = {"type": "bidirectional", "dropout": config["attention_probs_dropout_prob"]}
    ffn = {"hidden_dim": config["intermediate_size"], "activation": config["hidden_act"], "bias": True}
    return {
        "type": "block",
        "repeat": config["num_hidden_layers"],
        "residual": "pre_norm",
        "norm": _norm(config),
        "mixer": {
            "type": "attention",
            "num_heads": config["num_attention_heads"],
            "bias": True,
            "attention": attention,
            "position": "none",
        },
        "ffn_norm": _norm(config),
        "ffn": {"type": "mlp"} | ffn,
    }


def _norm(config: Fields) -> dict[str, Any]:
    return {"type": "layer", "eps": config["layer_norm_eps"], "zero_centered": False}


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layer, patches = model["layers"][0], model["embedding"]
    num_patches = knob(model, "position", "max_length", 1) - patches.get("class_tokens", 0)
    labels = [f"LABEL_{label}" for label in range(knob(model, "head", "num_outputs", 2))]
    return {
        "hidden_size": model["dim"],
        "num_hidden_layers": num_layers(model),
        "num_attention_heads": knob(layer, "mixer", "num_heads", 1),
        "intermediate_size": knob(layer, "ffn", "hidden_dim", None) or 4 * model["dim"],
        "hidden_act": knob(layer, "ffn", "activation", "gelu"),
        "attention_probs_dropout_prob": knob(layer["mixer"], "attention", "dropout", 0.0),
        "layer_norm_eps": knob(layer, "norm", "eps", 1e-12),
        "image_size": math.isqrt(max(0, num_patches)) * patches.get("patch_size", 1),
        "patch_size": patches.get("patch_size", 1),
        "num_channels": patches.get("num_channels", 3),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


FORMAT = CheckpointFormat(
    architecture="ViTForImageClassification",
    fields=FIELDS,
    fixed=FIXED,
    ignored=("encoder_stride", "pooler_act", "pooler_output_size"),
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
