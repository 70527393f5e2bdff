"""Qwen2-MoE as Qwen2MoeForCausalLM: a mixture of experts beside a shared one with a gate, in every layer or in some."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows, qwen3_moe
from archlab.interop.hugging_face.formats._experts import (
    expert_keys,
    experts_config,
    experts_of,
    is_sparse,
    shared_dim,
    sparse_key_map,
)
from archlab.interop.hugging_face.formats._hybrid import whole_layers
from archlab.interop.hugging_face.formats._names import layer_keys
from archlab.interop.hugging_face.formats._rope import rope_position
from archlab.interop.hugging_face.formats._windows import FULL, SLIDING
from archlab.interop.hugging_face.formats.olmoe import NAMES

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
    "qkv_bias": True,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": False,
}
BIASES = {f"self_attn.{part[0]}_proj.bias": f"mixer.{part}.bias" for part in ("query", "key", "value")}
SHARED: KeyMap = {f"mlp.shared_expert.{name}.weight": f"ffn.shared.{ours}.weight" for ours, name in NAMES.items()}
SHARED["mlp.shared_expert_gate.weight"] = "ffn.shared_gate.weight"


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    names = _decoder.key_map(config)
    if config["qkv_bias"]:
        names |= layer_keys(config["num_hidden_layers"], "model.layers", BIASES)
    sparse = [index for index, has_experts in enumerate(qwen3_moe.has_experts(config)) if has_experts]
    return sparse_key_map(names, sparse, expert_keys("mlp", config["num_experts"], NAMES) | SHARED)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    windows = _windows.windows(config if config["use_sliding_window"] else {**config, "sliding_window": None})
    own = {
        "position": rope_position(config),
        "bias": config["qkv_bias"],
        "out_bias": False if config["qkv_bias"] else None,
    }
    mixers = {kind: {**own, "attention": attention} for kind, attention in windows.items()}
    ffns = {True: shared_experts_config(config), False: {"type": "swiglu"}}
    runs = groupby(zip(_kinds(config, windows), qwen3_moe.has_experts(config), strict=True))
    layers = [
        {"repeat": len(list(run)), "mixer": mixers[kind], "ffn": ffns[is_mixed]} for (kind, is_mixed), run in runs
    ]
    return _decoder.stack_config(config, layers)


def _kinds(config: Fields, windows: Fields) -> list[str]:
    """Return the kind of each layer's window: every other one of the first `max_window_layers` has a sliding one."""
    num_layers = config["num_hidden_layers"]
    if config["layer_types"] is None:
        first = config["max_window_layers"] if SLIDING in windows else 0
        return [SLIDING if index < first and index % 2 == 0 else FULL for index in range(num_layers)]
    if SLIDING in config["layer_types"] and SLIDING not in windows:
        raise ArchlabError(f"layer_types has {SLIDING!r}, and use_sliding_window {config['use_sliding_window']!r}")
    _windows.window_layers(config, config["layer_types"], {FULL: {}, SLIDING: {}})  # checks the list
    return list(config["layer_types"])


def shared_experts_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of a mixture beside a shared expert with a gate."""
    sizes = (config["moe_intermediate_size"], config["num_experts"], config["num_experts_per_tok"])
    shared = {"shared_dim": config["shared_expert_intermediate_size"], "shared_gate": True}
    return experts_config(*sizes, normalize=config["norm_topk_prob"]) | shared


def shared_experts_fields(model: Fields) -> dict[str, Any]:
    """Return the fields of the first mixture in a model's YAML data, with defaults filled in."""
    experts = experts_of(model)
    return {
        "moe_intermediate_size": experts["hidden_dim"],
        "shared_expert_intermediate_size": shared_dim(model) or FIELDS["shared_expert_intermediate_size"],
        "num_experts": experts["num_experts"],
        "num_experts_per_tok": experts["top_k"],
        "norm_topk_prob": experts["normalize"],
    }


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layers, windows = whole_layers(model), _windows.window_fields(model)
    # The fields are those of one layer: with a dense ffn, if there is one.
    fields = _decoder.decoder_fields({**model, "layers": sorted(model["layers"], key=is_sparse)})
    # A sliding window says nothing about the longest text, for which any number will do.
    longest = {"max_position_embeddings": FIELDS["max_position_embeddings"]}
    return (
        fields
        | longest
        | windows
        | shared_experts_fields(model)
        | {
            "qkv_bias": layers[0]["mixer"].get("bias", False),
            "hidden_act": "silu",
            "use_sliding_window": windows["sliding_window"] is not None,
            "mlp_only_layers": [index for index, layer in enumerate(layers) if not is_sparse(layer)],
        }
    )


FORMAT = CheckpointFormat(
    architecture="Qwen2MoeForCausalLM",
    fields=FIELDS,
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish")},
    # The loss of the balance is added where a model is trained.
    ignored=(*_decoder.IGNORED, "router_aux_loss_coef", "output_router_logits"),
    aliases={"num_local_experts": "num_experts"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
