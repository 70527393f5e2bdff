"""The state of a generation in a file, from which it continues as if it had not ended.

A safetensors file: the model's state as `state.NAME`, the logits [V] after the last token, the state of the random
numbers, and facts about the text as metadata. V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from archlab.errors import ArchlabError, describe_error
from archlab.inference.prompts import GeneratedToken
from archlab.modeling.state import RESERVED, State, init_state
from archlab.storage.files import write_bytes
from archlab.storage.json_values import is_count, is_finite
from archlab.storage.output_file import require_output_file
from archlab.storage.safetensors_header import read_header
from archlab.storage.tensors import named_tensors, read_tensors

FORMAT = "archlab generation 1"
_STATE, _LOGITS, _RANDOM = "state.", "logits", "random"
_DIGEST = "sha256"


@dataclass(frozen=True)
class SavedState:
    """Where a generation has ended, everything sampled so far read.

    Attributes:
        state: The model's state, of a batch of one.
        logits_V: The logits after the last token.
        random: The state of the sampler's generator.
        position: Number of tokens read.
        context: The last of the tokens whose text was given out.
        held: The tokens after these, whose text was not: it may begin a stop text, or lack a part of a character.
    """

    state: State
    logits_V: Tensor
    random: Tensor
    position: int
    context: Sequence[int]
    held: Sequence[GeneratedToken] = ()

    @property
    def last_token(self) -> int:
        """The last token read."""
        return self.held[-1].token if self.held else self.context[-1]


def require_state_file(file: Path, *, force: bool) -> None:
    """Raise ArchlabError unless a state may be written to a file: it is absent, or with `force` another state."""
    require_output_file(file, "state", force=force, is_own=_is_state)


def _is_state(file: Path) -> bool:
    try:
        return read_header(file).metadata.get("format", "").startswith("archlab generation ")
    except ArchlabError:
        return False


def save_state(file: Path, model: nn.Module, saved: SavedState, *, force: bool = False) -> None:
    """Write a state atomically; raise ArchlabError for an existing file, with `force` for one that is not a state."""
    tensors = {_STATE + name: tensor for name, tensor in saved.state.items()}
    tensors |= {_LOGITS: saved.logits_V, _RANDOM: saved.random}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "model": model_hash(model),
        "position": str(saved.position),
        "last_token": str(saved.last_token),
        "context": json.dumps(list(saved.context)),
        "held": json.dumps([_pack(token) for token in saved.held]),
    }
    metadata[_DIGEST] = _digest(tensors, metadata)
    require_state_file(file, force=force)  # again: generating may have taken hours
    write_bytes(file, save(tensors, metadata))


def load_state(file: Path, model: nn.Module) -> SavedState:
    """Read a state; raise ArchlabError for a file that is damaged, is not a state, or that of another model."""
    metadata = dict(read_header(file).metadata)
    if not metadata.get("format", "").startswith("archlab generation "):
        raise ArchlabError(f"{file}: is not a state that archlab generate has saved")
    if metadata["format"] != FORMAT:
        raise ArchlabError(f"{file}: its format is {metadata['format']!r}, and this version reads {FORMAT!r}")
    tensors = read_tensors(file)
    if metadata.pop(_DIGEST, None) != _digest(tensors, metadata):
        raise ArchlabError(f"{file}: is damaged: its SHA-256 is not the one it was saved with")
    own = model_hash(model)
    if metadata.get("model") != own:
        found = metadata.get("model", "")[:12]
        raise ArchlabError(f"{file}: is the state of another model, SHA-256 {found} of its weights and not {own[:12]}")
    state = {name.removeprefix(_STATE): x for name, x in tensors.items() if name.startswith(_STATE)}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    _require_fit(file, state, init_state(model, 1))
    try:
        torch.Generator().set_state(tensors[_RANDOM])
        return SavedState(
            {name: tensor.to(device) for name, tensor in state.items()},
            tensors[_LOGITS],
            tensors[_RANDOM],
            int(metadata["position"]),
            _token_list(json.loads(metadata["context"])),
            [_unpack(entry) for entry in json.loads(metadata["held"])],
        )
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArchlabError(f"{file}: is not a state that this version reads: {describe_error(error)}") from error


def model_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's architecture and weights."""
    spec = getattr(model, "spec", None)
    return _digest(named_tensors(model), {} if spec is None else spec.to_plain())


def _digest(tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # Flat first: a scalar has no bytes to view.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_fit(file: Path, state: State, first: State) -> None:
    """Raise ArchlabError naming a tensor that the model's state does not have in this form."""
    known = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] != RESERVED or name in first}
    if missing := sorted(first.keys() ^ known.keys()):
        raise ArchlabError(f"{file}: does not fit the model, whose state differs in {missing[0]!r}")
    for name, tensor in first.items():
        # The tokens read so far are along the second dimension.
        if (tensor.dtype, _fixed_sizes(tensor)) != (state[name].dtype, _fixed_sizes(state[name])):
            found, needed = (f"{x.dtype} {list(x.shape)}" for x in (state[name], tensor))
            raise ArchlabError(f"{file}: does not fit the model: {name!r} is {found} and not {needed}")


def _fixed_sizes(tensor: Tensor) -> tuple[int, ...]:
    return (tensor.dim(), *tensor.shape[:1], *tensor.shape[2:])


def _pack(token: GeneratedToken) -> list[Any]:
    return [token.token, token.logprob, [[best.token, best.text, best.logprob] for best in token.best]]


def _unpack(entry: Any) -> GeneratedToken:
    token, logprob, best = entry
    scores = tuple(GeneratedToken(_token(each), str(text), _score(value)) for each, text, value in best)
    return GeneratedToken(_token(token), "", _score(logprob), scores)


def _token_list(values: Any) -> list[int]:
    return [_token(value) for value in values]


def _token(value: Any) -> int:
    if not is_count(value):
        raise ValueError(f"{value!r} is not a token")
    return int(value)


def _score(value: Any) -> float | None:
    if value is not None and not is_finite(value):
        raise ValueError(f"{value!r} is not a probability")
    return None if value is None else float(value)
