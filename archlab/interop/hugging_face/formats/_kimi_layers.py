"""The kinds of Kimi Linear's layers and the sizes of its linear ones, of which files have two forms.

The authors' files have lists of numbers and sizes in `linear_attn_config`; transformers writes `layer_types` and
fields.
"""

from __future__ import annotations

from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import Fields
from archlab.interop.hugging_face.formats._hybrid import LINEAR
from archlab.interop.hugging_face.formats._windows import FULL

DENSE, SPARSE = "dense", "sparse"
FORM = "linear_attn_config"
SIZES = {"num_heads": "linear_num_heads", "head_dim": "linear_head_dim"}
SIZES["short_conv_kernel_size"] = "linear_conv_kernel_dim"
LISTS = {"full_attn_layers": FULL, "kda_layers": LINEAR}  # of layers, the first of which is 1


def layer_kinds(config: Fields) -> list[tuple[str, str]]:
    """Return the mixer and the ffn of each layer; raise ArchlabError for a list of others."""
    mixers, ffns = _mixers(config), _ffns(config)
    _check("layer_types", mixers, (LINEAR, FULL), config)
    _check("mlp_layer_types", ffns, (DENSE, SPARSE), config)
    return list(zip(mixers, ffns, strict=True))


def _mixers(config: Fields) -> list[str]:
    """Return the kind of each mixer: of a list, of two lists of numbers, or attention in every fourth after the first.

    Of several, transformers reads `layer_types`.
    """
    num_layers, own = config["num_hidden_layers"], config[FORM] or {}
    if config["layer_types"] is not None:
        return list(config["layer_types"])
    if not all(name in own for name in LISTS):
        return [FULL if index and index % 4 == 0 else LINEAR for index in range(num_layers)]
    kinds = sorted((number, kind) for name, kind in LISTS.items() for number in own[name])
    if [number for number, _ in kinds] != list(range(1, num_layers + 1)):
        raise ArchlabError(f"{FORM}: {' and '.join(LISTS)} do not have every number from 1 to {num_layers} once")
    return [kind for _, kind in kinds]


def _ffns(config: Fields) -> list[str]:
    if config["mlp_layer_types"] is not None:
        return list(config["mlp_layer_types"])
    first = config["first_k_dense_replace"]
    return [DENSE if index < first else SPARSE for index in range(config["num_hidden_layers"])]


def _check(field: str, kinds: list[str], known: tuple[str, str], config: Fields) -> None:
    if len(kinds) != config["num_hidden_layers"]:
        raise ArchlabError(f"{field} has {len(kinds)} entries for num_hidden_layers {config['num_hidden_layers']}")
    for kind in kinds:
        if kind not in known:
            raise ArchlabError(f"{field} {kind!r}: not represented, only {known[0]!r} and {known[1]!r} are")


def delta_sizes(config: Fields) -> tuple[Any, ...]:
    """Return the number of heads, the width of one and the size of the convolutions: `linear_attn_config` is first."""
    own = config[FORM] or {}
    for name in own:
        if name not in (*SIZES, *LISTS):
            raise ArchlabError(f"{FORM}: unknown field {name!r}, here {own[name]!r}")
    return tuple(own.get(name, config[field]) for name, field in SIZES.items())
