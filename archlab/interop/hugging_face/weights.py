"""A model's weights under the names of a checkpoint of transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from archlab.interop._formats import CheckpointFormat, Fields
from archlab.interop.hugging_face.config_json import HFConfig

_HEADS = ("lm_head.weight", "head.weight")


class Names:
    """A model's weights by the names of a checkpoint, and by those under which it may repeat the embedding.

    Of two names of a tensor, that of `stored`, the checkpoint's tensors, is taken.
    """

    def __init__(self, model: nn.Module, config: HFConfig, stored: Collection[str]) -> None:
        own = by_their_names(weights_of(model), config.format, config.fields)
        parameters = {stored_name(name, config.format, stored): tensors for name, tensors in own.items()}
        self.tied = _tied_head(model, parameters)
        self.all = parameters | self.tied


def stored_name(name: str, target: CheckpointFormat, stored: Collection[str]) -> str:
    """Return the name of a tensor in a checkpoint: its other one, if that is there and the first is not."""
    if name in stored or target.other_name is None:
        return name
    other = target.other_name(name)
    return other if other in stored else name


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters, and the buffers that belong to a checkpoint, such as the biases of a router."""
    state = model.state_dict(keep_vars=True)
    buffers = {name: tensor for name, tensor in state.items() if not isinstance(tensor, nn.Parameter)}
    return {**dict(model.named_parameters()), **buffers}


def by_their_names(own: Mapping[str, Tensor], target: CheckpointFormat, fields: Fields) -> dict[str, list[Tensor]]:
    """Return a model's weights under the names of a format, whose key map gives every part of each once."""
    key_map = {theirs: (ours,) if isinstance(ours, str) else ours for theirs, ours in target.key_map(fields).items()}
    parameters = {theirs: [_entry(own, name) for name in several] for theirs, several in key_map.items()}
    ours = [name for several in key_map.values() for name in several]
    assert {name.partition("[")[0] for name in ours} == set(own), f"no name for one of {sorted(own)}"
    assert len(set(ours)) == len(ours), "two names for one parameter"
    named = sum(entry.numel() for several in parameters.values() for entry in several)
    assert named == sum(tensor.numel() for tensor in own.values()), "no name for a part of a parameter"
    return parameters


def _entry(own: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a parameter, or the part of it that brackets name: see `CheckpointFormat.key_map`."""
    whole, _, part = name.removesuffix("]").partition("[")
    first, _, end = part.partition(":")
    if part in ("", "T"):
        return own[whole].mT if part else own[whole]
    return own[whole][int(first) : int(end)] if end else own[whole][int(first)]


def _tied_head(model: nn.Module, parameters: Mapping[str, object]) -> dict[str, list[Tensor]]:
    """Return the embedding under each name by which a checkpoint may repeat it as the head, if the head is tied."""
    own = dict(model.named_parameters())
    if "embedding.weight" not in own or "head.weight" in own:
        return {}
    return {name: [own["embedding.weight"]] for name in _HEADS if name not in parameters}
