"""Qwen3-MoE as Qwen3MoeForCausalLM: Qwen3 with a mixture of experts in every layer, or in some."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows, mistral, qwen3
from archlab.interop.hugging_face.formats._experts import (
    expert_keys,
    experts_config,
    experts_of,
    is_sparse,
    sparse_key_map,
)
from archlab.interop.hugging_face.formats._rope import rope_position
from archlab.interop.hugging_face.formats._windows import FULL, SLIDING
from archlab.interop.hugging_face.formats.olmoe import NAMES

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    windows = _windows.windows(config if config["use_sliding_window"] else {**config, "sliding_window": None})
    _decoder.check_layer_types(config, sliding=SLIDING in windows)  # the class has one window for all layers
    attention = windows.get(SLIDING, windows[FULL])
    mixer = {"attention": attention, "position": rope_position(config), "qk_norm": _decoder.rms(config, False)}
    sizes = (config["moe_intermediate_size"], config["num_experts"], config["num_experts_per_tok"])
    ffns = {True: experts_config(*sizes, normalize=config["norm_topk_prob"]), False: {"type": "swiglu"}}
    runs = [(len(list(run)), ffns[is_mixed]) for is_mixed, run in groupby(has_experts(config))]
    return _decoder.stack_config(config, [{"repeat": length, "mixer": mixer, "ffn": ffn} for length, ffn in runs])


def has_experts(config: Fields) -> list[bool]:
    """Return whether each layer has a mixture of experts."""
    dense, step = config["mlp_only_layers"] or [], config["decoder_sparse_step"]
    if not isinstance(dense, list) or any(type(index) is not int for index in dense):
        raise ArchlabError(f"mlp_only_layers {dense!r} is not a list of whole numbers")
    layers = range(config["num_hidden_layers"])
    return [config["num_experts"] > 0 and index not in dense and (index + 1) % step == 0 for index in layers]


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    experts = experts_of(model)
    # The fields are those of the first layer: with a dense ffn, if there is one.
    fields = mistral.to_hf_config({**model, "layers": sorted(model["layers"], key=is_sparse)})
    sparse = [is_sparse(layer) for layer in model["layers"] for _ in range(layer.get("repeat", 1))]
    return fields | {
        "attention_bias": model["layers"][0]["mixer"].get("bias", False),
        "use_sliding_window": fields["sliding_window"] is not None,
        "mlp_only_layers": [index for index, is_mixed in enumerate(sparse) if not is_mixed],
        "moe_intermediate_size": experts["hidden_dim"],
        "num_experts": experts["num_experts"],
        "num_experts_per_tok": experts["top_k"],
        "norm_topk_prob": experts["normalize"],
    }


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    layers = [index for index, is_mixed in enumerate(has_experts(config)) if is_mixed]
    return sparse_key_map(qwen3.key_map(config), layers, expert_keys("mlp", config["num_experts"], NAMES))


FORMAT = CheckpointFormat(
    architecture="Qwen3MoeForCausalLM",
    fields=FIELDS,
    # Some files have fields of features that the class always has, and of other classes.
    fixed=_decoder.FIXED
    | {"hidden_act": ("silu", "swish"), "use_qk_norm": (True,), "shared_expert_intermediate_size": (0,)},
    # The loss of the balance is added where a model is trained; the class does not read the layers with a window.
    ignored=(*_decoder.IGNORED, "router_aux_loss_coef", "output_router_logits", "max_window_layers"),
    aliases={"num_local_experts": "num_experts"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
