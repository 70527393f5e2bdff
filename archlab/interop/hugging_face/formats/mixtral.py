"""Mixtral as MixtralForCausalLM: Mistral with a mixture of experts."""

from __future__ import annotations

from typing import Any

from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, mistral
from archlab.interop.hugging_face.formats._experts import expert_keys, experts_config, experts_of, sparse_key_map

FIELDS: dict[str, Any] = mistral.FIELDS | {
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
THEIRS, NAMES = "block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    model = mistral.to_archlab_config(config)
    sizes = (config["intermediate_size"], config["num_local_experts"], config["num_experts_per_tok"])
    model["layers"] = [layer | {"ffn": experts_config(*sizes, normalize=True)} for layer in model["layers"]]
    return model


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    experts = experts_of(model)
    return mistral.to_hf_config(model) | {
        "intermediate_size": experts["hidden_dim"],
        "num_local_experts": experts["num_experts"],
        "num_experts_per_tok": experts["top_k"],
    }


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    experts = expert_keys(THEIRS, config["num_local_experts"], NAMES)
    return sparse_key_map(_decoder.key_map(config), range(config["num_hidden_layers"]), experts)


FORMAT = CheckpointFormat(
    architecture="MixtralForCausalLM",
    fields=FIELDS,
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish"), "router_jitter_noise": (0.0,)},
    # The loss of the balance is added where a model is trained.
    ignored=(*_decoder.IGNORED, "router_aux_loss_coef", "output_router_logits"),
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
