"""Mixtures of experts in configurations and checkpoints, where each expert's matrices are tensors of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from archlab.interop._formats import Fields, KeyMap
from archlab.interop.hugging_face.formats._names import prefix

MOE = "moe"
ROUTED = ("hidden_dim", "num_experts", "top_k", "normalize")


def experts_config(hidden_dim: int, num_experts: int, top_k: int, *, normalize: bool) -> dict[str, Any]:
    """Return the YAML data of a mixture whose scores are a softmax; the loss of its balance is left to training."""
    sizes = dict(zip(ROUTED, (hidden_dim, num_experts, top_k, normalize), strict=True))
    return {"type": MOE, "balance_loss": 0.0, **sizes}


def scored_config(config: Fields, names: Mapping[str, str], shared_dim: int) -> dict[str, Any]:
    """Return the YAML data of DeepSeek-V3's mixture: a sigmoid scores each expert, a bias adjusts the selection.

    `names` are their fields of the knobs.
    """
    knobs = {ours: config[theirs] for ours, theirs in names.items()}
    # The biases stay as they are, unless a training says otherwise.
    return {"type": MOE, "score": "sigmoid", "shared_dim": shared_dim, "balance_loss": 0.0, "bias_rate": 0.0} | knobs


def scored_fields(model: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of the first such mixture in a model's YAML data, with defaults filled in."""
    ffn = {"latent_dim": None, "scale": 1.0, "num_groups": 1, "top_groups": 1}
    ffn |= next((layer["ffn"] for layer in model["layers"] if is_sparse(layer)), {}) | experts_of(model)
    return {theirs: ffn[ours] for ours, theirs in names.items()}


def shared_dim(model: Mapping[str, Any]) -> int:
    """Return the width of the shared expert of the first mixture, 0 for none."""
    ffn: Mapping[str, Any] = next((layer["ffn"] for layer in model["layers"] if is_sparse(layer)), {})
    return ffn.get("shared_dim") or 0


def is_sparse(layer: Mapping[str, Any]) -> bool:
    """Return whether the ffn of a layer's YAML data is a mixture."""
    return bool(layer["ffn"]["type"] == MOE)


def experts_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of the first mixture in a model's YAML data, with defaults filled in."""
    ffn = {"num_experts": 8, "top_k": 2, "normalize": True}
    ffn |= next((layer["ffn"] for layer in model["layers"] if is_sparse(layer)), {})
    hidden_dim = ffn.get("hidden_dim") or 8 * -(-model["dim"] // (3 * ffn["top_k"]))
    return {name: (ffn | {"hidden_dim": hidden_dim})[name] for name in ROUTED}


def expert_keys(theirs: str, num_experts: int, names: Mapping[str, str], router: str = "gate") -> KeyMap:
    """Return the key map of one layer; `names` are transformers' names of an expert's `gate`, `up` and `down`."""
    experts: KeyMap = {
        f"{theirs}.experts.{index}.{name}.weight": f"ffn.experts.{ours}[{index}]"
        for index in range(num_experts)
        for ours, name in names.items()
    }
    return {f"{theirs}.{router}.weight": "ffn.router.weight"} | experts


def sparse_key_map(dense: KeyMap, layers: Iterable[int], experts: KeyMap) -> KeyMap:
    """Return a decoder's key map, with the names of a mixture in place of the dense ffn's in some of its layers."""
    own = {f"model.layers.{i}": f"blocks.{i}" for i in layers}
    replaced = tuple(f"{theirs}.mlp." for theirs in own)
    kept = {name: ours for name, ours in dense.items() if not name.startswith(replaced)}
    return kept | {
        f"{theirs}.{name}": prefix(module, ours) for theirs, module in own.items() for name, ours in experts.items()
    }
