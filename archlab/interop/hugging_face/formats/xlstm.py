"""xLSTM as xLSTMForCausalLM: layers of the matrix LSTM and gated FFNs, with a cap of gates and logits."""

from __future__ import annotations

import math
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats._names import knob, layer_keys, num_layers

FIELDS: dict[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "embedding_dim": None,
    "num_hidden_layers": 32,
    "num_blocks": None,
    "num_heads": 8,
    "norm_eps": 1e-6,
    "qk_dim_factor": 0.5,
    "v_dim_factor": 1.0,
    "ffn_proj_factor": 2.667,
    "ffn_round_up_to_multiple_of": 64,
    "gate_soft_cap": 15.0,
    "output_logit_soft_cap": 30.0,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "use_bias": (False,),
    "weight_mode": ("single",),
    "add_out_norm": (True,),
    "tie_word_embeddings": (False,),  # the class ties nothing
    "eps": (1e-6,),
}
# Fields that do not change the function.
IGNORED = (
    "autocast_kernel_dtype",
    "chunk_size",
    "chunkwise_kernel",
    "inference_state_dtype",
    "max_inference_chunksize",
    "mode",
    "norm_reduction_force_float32",
    "return_last_states",
    "sequence_kernel",
    "step_kernel",
)
ENDS: KeyMap = {
    "backbone.embeddings.weight": "embedding.weight",
    "backbone.out_norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
LAYER: dict[str, str] = {
    "norm_mlstm.weight": "norm.weight",
    "mlstm_layer.q.weight": "mixer.query.weight",
    "mlstm_layer.k.weight": "mixer.key.weight",
    "mlstm_layer.v.weight": "mixer.value.weight",
    "mlstm_layer.ogate_preact.weight": "mixer.output_gate.weight",
    "mlstm_layer.igate_preact.weight": "mixer.input_gate.weight",
    "mlstm_layer.igate_preact.bias": "mixer.input_gate.bias",
    "mlstm_layer.fgate_preact.weight": "mixer.forget_gate.weight",
    "mlstm_layer.fgate_preact.bias": "mixer.forget_gate.bias",
    "mlstm_layer.multihead_norm.weight": "mixer.norm.weight",
    "mlstm_layer.out_proj.weight": "mixer.out.weight",
    "norm_ffn.weight": "ffn_norm.weight",
    "ffn.proj_up_gate.weight": "ffn.gate.weight",
    "ffn.proj_up.weight": "ffn.up.weight",
    "ffn.proj_down.weight": "ffn.down.weight",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    return ENDS | layer_keys(_depth(config), "backbone.blocks", LAYER)


def _depth(config: Fields) -> int:
    # The class builds num_blocks layers where a file has both numbers.
    blocks = config["num_blocks"]
    return int(config["num_hidden_layers"] if blocks is None else blocks)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for two widths."""
    dim, outer = config["hidden_size"], config["embedding_dim"]
    if outer not in (None, dim):
        raise ArchlabError(f"embedding_dim {outer}: not represented, only hidden_size {dim} is")
    norm = {"type": "rms", "eps": config["norm_eps"], "zero_centered": False}
    step = config["ffn_round_up_to_multiple_of"]
    mixer = {
        "type": "mlstm",
        "num_heads": config["num_heads"],
        "key_dim": int(dim * config["qk_dim_factor"]),
        "value_dim": int(dim * config["v_dim_factor"]),
        "gate_cap": config["gate_soft_cap"],
        "eps": config["norm_eps"],
    }
    layer = {
        "type": "block",
        "repeat": _depth(config),
        "residual": "pre_norm",
        "norm": norm,
        "mixer": mixer,
        "ffn_norm": norm,
        "ffn": {"type": "swiglu", "hidden_dim": int((dim * config["ffn_proj_factor"] + step - 1) // step * step)},
    }
    return {
        "type": "stack",
        "vocab_size": config["vocab_size"],
        "dim": dim,
        "layers": [layer],
        "norm": norm,
        "head": {"type": "language_model", "soft_cap": config["output_logit_soft_cap"]},
    }


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layer, dim = model["layers"][0], model["dim"]
    mixer, hidden = layer["mixer"], layer["ffn"].get("hidden_dim") or 8 * -(-dim // 3)
    return {
        "vocab_size": model["vocab_size"],
        "hidden_size": dim,
        "embedding_dim": dim,
        "num_hidden_layers": num_layers(model),
        "num_blocks": num_layers(model),
        "num_heads": mixer["num_heads"],
        "norm_eps": layer["norm"].get("eps", 1e-5),
        "qk_dim_factor": _factor(mixer.get("key_dim") or max(1, dim // 2), dim),
        "v_dim_factor": _factor(mixer.get("value_dim") or dim, dim),
        "ffn_proj_factor": _factor(hidden, dim),
        "ffn_round_up_to_multiple_of": 1,
        "gate_soft_cap": mixer["gate_cap"],
        "output_logit_soft_cap": knob(model, "head", "soft_cap", None),
    }


def _factor(width: int, dim: int) -> float:
    """Return width / dim, or the next larger number where their product would be rounded to less than the width."""
    factor = width / dim
    return factor if int(dim * factor) == width else math.nextafter(factor, math.inf)


FORMAT = CheckpointFormat(
    architecture="xLSTMForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
