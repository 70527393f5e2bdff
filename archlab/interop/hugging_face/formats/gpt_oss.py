"""gpt-oss as GptOssForCausalLM: sinks, every other window sliding, and experts with biases and clamped gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows
from archlab.interop.hugging_face.formats._experts import experts_config, experts_of
from archlab.interop.hugging_face.formats._names import layer_keys
from archlab.interop.hugging_face.formats._rope import rope_position
from archlab.interop.hugging_face.formats._windows import FULL, SLIDING

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
}
BASE = 150000.0
# The angles of a configuration that names none.
ROPE = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}
BLOCK = {theirs: ours for theirs, ours in _decoder.BLOCK.items() if not theirs.startswith("mlp.")}
LAYER: KeyMap = {
    "self_attn.sinks": "mixer.attention.sink",
    "mlp.router.weight": "ffn.router.weight",
    "mlp.router.bias": "ffn.router.bias",
    "mlp.experts.gate_up_proj": ("ffn.experts.gate", "ffn.experts.up"),
    "mlp.experts.gate_up_proj_bias": ("ffn.experts.gate_bias", "ffn.experts.up_bias"),
    "mlp.experts.down_proj": "ffn.experts.down",
    "mlp.experts.down_proj_bias": "ffn.experts.down_bias",
}
_BOTH, _BOTH_BIASES, _DOWN = "experts.gate_up_proj", "experts.gate_up_proj_bias", "experts.down_proj"


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    return _decoder.key_map(config, BLOCK) | layer_keys(config["num_hidden_layers"], "model.layers", LAYER)


def from_hf(name: str, tensor: Tensor) -> Tensor:
    """Return the matrices of experts as [outputs, inputs], and all gates before the ups that theirs alternate with."""
    if name.endswith((_BOTH, _DOWN)):
        tensor = tensor.mT
    return torch.cat((tensor[:, ::2], tensor[:, 1::2])) if name.endswith((_BOTH, _BOTH_BIASES)) else tensor


def to_hf(name: str, tensor: Tensor) -> Tensor:
    """Return the matrices of experts as [inputs, outputs], with gates and ups in turn."""
    if name.endswith((_BOTH, _BOTH_BIASES)):
        tensor = torch.stack(tensor.chunk(2), 2).flatten(1, 2)
    return tensor.mT if name.endswith((_BOTH, _DOWN)) else tensor


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    position, ffn = _position(config), _ffn(config)
    windows = _windows.windows(config, sinks=True)
    layers = {
        kind: {"mixer": {"attention": window, "position": position}, "ffn": ffn} for kind, window in windows.items()
    }
    kinds = config["layer_types"] or [FULL if index % 2 else SLIDING for index in range(config["num_hidden_layers"])]
    return _decoder.stack_config(config, _windows.window_layers(config, kinds, layers))


def _position(config: Fields) -> dict[str, Any]:
    has_rope = config["rope_parameters"] or config["rope_scaling"]
    return rope_position(config if has_rope else {**config, "rope_scaling": ROPE}, BASE)


def _ffn(config: Fields) -> dict[str, Any]:
    sizes = (config["intermediate_size"], config["num_local_experts"], config["num_experts_per_tok"])
    biases = {"router_bias": True, "expert_bias": True}
    unit = {"gate_slope": config["swiglu_alpha"], "up_offset": 1.0, "clamp": config["swiglu_limit"]}
    return experts_config(*sizes, normalize=True) | biases | unit


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layer, experts = model["layers"][0], experts_of(model)
    windows = _windows.window_fields(model)
    if windows["sliding_window"] is None:  # which the class needs, also where no layer has it
        windows["sliding_window"] = FIELDS["sliding_window"]
    # A sliding window says nothing about the longest text.
    longest = {"max_position_embeddings": FIELDS["max_position_embeddings"]}
    fields = _decoder.decoder_fields(model) | longest | windows
    return fields | {
        "attention_bias": layer["mixer"].get("bias", False),
        "hidden_act": "silu",
        "intermediate_size": experts["hidden_dim"],
        "num_local_experts": experts["num_experts"],
        "num_experts_per_tok": experts["top_k"],
        "swiglu_alpha": layer["ffn"].get("gate_slope", 1.0),
        "swiglu_limit": layer["ffn"].get("clamp"),
    }


FORMAT = CheckpointFormat(
    architecture="GptOssForCausalLM",
    fields=FIELDS,
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish")},
    # The loss of the balance is added where a model is trained; the class reads the rope's own first context.
    ignored=(*_decoder.IGNORED, "router_aux_loss_coef", "output_router_logits", "initial_context_length"),
    aliases={"num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=from_hf,
    to_hf=to_hf,
)
