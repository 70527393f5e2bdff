"""DiffLlama as DiffLlamaForCausalLM: LLaMA with the difference of two attentions."""

from __future__ import annotations

import math
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder
from archlab.interop.hugging_face.formats._names import first_mixer, layer_keys
from archlab.interop.hugging_face.formats._rope import rope_position

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
}
MAPS = 2  # attentions of a head
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
BLOCK = {
    theirs: ours
    for theirs, ours in _decoder.BLOCK.items()
    if theirs not in {f"self_attn.{projection}" for projection in PROJECTIONS}
}
LAMBDA: KeyMap = {
    f"self_attn.lambda_{letter}{index + 1}": f"mixer.lambda_{ours}[{index}]"
    for letter, ours in (("q", "query"), ("k", "key"))
    for index in range(MAPS)
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    heads, groups = config["num_attention_heads"], _key_heads(config)
    width = config["head_dim"] or config["hidden_size"] // heads
    rows = {"query": heads // groups * width, "key": width, "value": width}
    kinds = ("weight", "bias") if config["attention_bias"] else ("weight",)
    parts: KeyMap = {
        f"self_attn.{theirs}.{kind}": _by_map(f"mixer.{ours}.{kind}", groups // MAPS, rows[ours])
        for theirs, ours in PROJECTIONS.items()
        for kind in kinds
    }
    return _decoder.key_map(config, BLOCK) | layer_keys(config["num_hidden_layers"], "model.layers", parts | LAMBDA)


def _by_map(name: str, groups: int, size: int) -> tuple[str, ...]:
    """Return the rows of all first attentions, then those of all second ones; here both of a head are side by side."""
    starts = [(MAPS * group + index) * size for index in range(MAPS) for group in range(groups)]
    return tuple(f"{name}[{start}:{start + size}]" for start in starts)


def _key_heads(config: Fields) -> int:
    return int(config["num_key_value_heads"] or config["num_attention_heads"])


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for heads without a pair."""
    _decoder.check_layer_types(config, sliding=False)
    heads, groups = config["num_attention_heads"], _key_heads(config)
    for field, count in (("num_attention_heads", heads), ("num_key_value_heads", groups)):
        if count % MAPS:
            raise ArchlabError(f"{field} {count}: not represented, only even numbers are")
    mixer = {
        "type": "differential",
        "num_heads": heads // MAPS,
        "num_kv_heads": groups // MAPS,
        "head_dim": config["head_dim"] or config["hidden_size"] // heads,
        "norm": {"type": "rms", "eps": config["rms_norm_eps"], "affine": False},
        "bias": config["attention_bias"],
        "attention": {"type": "softmax", "window": "full", "window_size": config["max_position_embeddings"]},
        "position": {"interleaved": False} | rope_position(config),
    }
    begin = [0.8 - 0.6 * math.exp(-0.3 * index) for index in range(config["num_hidden_layers"])]
    layers = [{"mixer": mixer | {"init_lambda": value}, "ffn": {"type": "swiglu"}} for value in begin]
    return _decoder.stack_config(config, layers)


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    mixer = first_mixer(model, "differential")
    return _decoder.decoder_fields(model) | {
        "attention_bias": mixer["bias"],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "num_attention_heads": MAPS * mixer["num_heads"],
        "num_key_value_heads": MAPS * (mixer["num_kv_heads"] or mixer["num_heads"]),
        "head_dim": mixer["head_dim"] or model["dim"] // (MAPS * mixer["num_heads"]),
    }


FORMAT = CheckpointFormat(
    architecture="DiffLlamaForCausalLM",
    fields=FIELDS,
    # The class drops no attention weight: it raises an error where a file says so.
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish"), "attention_dropout": (0.0,)},
    ignored=(*_decoder.IGNORED, "lambda_std_dev"),
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
