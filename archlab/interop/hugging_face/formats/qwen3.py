"""Qwen3 as Qwen3ForCausalLM: LLaMA with a norm of each query and key."""

from __future__ import annotations

from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows
from archlab.interop.hugging_face.formats._rope import rope_position
from archlab.interop.hugging_face.formats._windows import FULL, SLIDING

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
BLOCK = _decoder.BLOCK | {"self_attn.q_norm": "mixer.query_norm", "self_attn.k_norm": "mixer.key_norm"}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    return _decoder.key_map(config, BLOCK)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    windows = _windows.windows(config if config["use_sliding_window"] else {**config, "sliding_window": None})
    own = {"qk_norm": _decoder.rms(config, False), "position": rope_position(config)}
    layers = {
        kind: {"mixer": own | {"attention": attention}, "ffn": {"type": "swiglu"}}
        for kind, attention in windows.items()
    }
    return _decoder.stack_config(config, _windows.window_layers(config, _kinds(config, windows), layers))


def _kinds(config: Fields, windows: Fields) -> list[str]:
    """Return the kind of each layer's window: layers have a sliding one from `max_window_layers` on."""
    if config["layer_types"] is None:
        first = config["max_window_layers"] if SLIDING in windows else config["num_hidden_layers"]
        return [SLIDING if index >= first else FULL for index in range(config["num_hidden_layers"])]
    if SLIDING in config["layer_types"] and SLIDING not in windows:
        raise ArchlabError(f"layer_types has {SLIDING!r}, and use_sliding_window {config['use_sliding_window']!r}")
    return list(config["layer_types"])


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    bias, windows = model["layers"][0]["mixer"].get("bias", False), _windows.window_fields(model)
    own = {"attention_bias": bias, "hidden_act": "silu", "use_sliding_window": windows["sliding_window"] is not None}
    return _decoder.decoder_fields(model) | windows | own


FORMAT = CheckpointFormat(
    architecture="Qwen3ForCausalLM",
    fields=FIELDS,
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish")},
    ignored=_decoder.IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
