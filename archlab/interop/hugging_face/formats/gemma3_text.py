"""Gemma 3 as Gemma3ForCausalLM: Gemma 2 with norms of queries and keys in place of capped scores, and two ropes."""

from __future__ import annotations

from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows, gemma2
from archlab.interop.hugging_face.formats._rope import rope_fields, rope_position
from archlab.interop.hugging_face.formats._windows import FULL, SLIDING

FIELDS: dict[str, Any] = gemma2.FIELDS | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "rope_local_base_freq": None,
    "sliding_window_pattern": 6,
}
del FIELDS["attn_logit_softcapping"]
# The class reads no cap of scores, whatever its configuration says.
FIXED: dict[str, tuple[Any, ...]] = gemma2.FIXED | {"attn_logit_softcapping": (None,)}
BLOCK = gemma2.BLOCK | {"self_attn.q_norm": "mixer.query_norm", "self_attn.k_norm": "mixer.key_norm"}
# The base of each kind of layer: the field that older files have it in, and its default.
BASES = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    return _decoder.key_map(config, BLOCK)


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    norm = _decoder.rms(config, True)
    layers = {}
    for kind, window in _windows.windows(config).items():
        position = _position(config, kind)
        layers[kind] = gemma2.layer(config, {"attention": window, "position": position, "qk_norm": norm})
    return gemma2.sandwich_config(config, _windows.window_layers(config, _kinds(config), layers))


def _kinds(config: Fields) -> list[str]:
    """Return the kind of each layer's window: every sixth sees all, unless the configuration lists other ones."""
    every = config["sliding_window_pattern"]
    default = [SLIDING if (index + 1) % every else FULL for index in range(config["num_hidden_layers"])]
    return list(config["layer_types"] or default)


def _position(config: Fields, kind: str) -> dict[str, Any]:
    """Return the position of a kind of layer; older files scale that of full attention alone."""
    field, default = BASES[kind]
    nested = config["rope_parameters"] or {}
    if unknown := set(nested) - set(BASES):
        kinds = " and ".join(map(repr, BASES))
        raise ArchlabError(f"rope_parameters: {sorted(unknown)[0]!r} is not a kind of layer, only {kinds} are")
    scaling = config["rope_scaling"] if kind == FULL else None
    own = {"rope_theta": config[field], "rope_parameters": nested.get(kind), "rope_scaling": scaling}
    longest = {"max_position_embeddings": config["max_position_embeddings"]}
    return rope_position(own | longest, default, types=("default", "linear"))


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    fields, ropes = gemma2.sandwich_fields(model), {}
    for kind, layer in zip(fields["layer_types"], _layers(model), strict=True):
        ropes[kind] = rope_fields(layer["mixer"]["position"])
    return fields | {"rope_parameters": ropes}


def _layers(model: Fields) -> list[Fields]:
    return [layer for layer in model["layers"] for _ in range(layer.get("repeat", 1))]


FORMAT = CheckpointFormat(
    architecture="Gemma3ForCausalLM",
    fields=FIELDS,
    fixed=FIXED,
    ignored=(*_decoder.IGNORED, "_sliding_window_pattern"),
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
