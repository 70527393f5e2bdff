"""The stream of tokens that a model reads: prompts chunk by chunk, then one token at a time.

T time, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archlab.inference.decoder import Decoder
from archlab.modeling.backbone import apply_head, get_features
from archlab.modeling.build import device_of
from archlab.modeling.state import RESERVED, State, init_state, reserve_state

# Long enough for the speed of one call on the whole prompt, short enough for its activations to stay in few megabytes.
CHUNK = 4096


class TokenStream:
    """Reads tokens from where the stream is; with `room`, a decoder compiled for so many tokens reads single ones.

    A prompt of any length takes the memory of one chunk of CHUNK tokens. `state` is where another stream has ended.
    """

    def __init__(self, model: nn.Module, room: int | None = None, state: State | None = None) -> None:
        self.model, self.room = model, room
        self._state = state
        self._decoder: Decoder | None = None

    @property
    def state(self) -> State:
        """The state after the tokens that were read; later ones change it."""
        if self._decoder is not None:
            return self._decoder.state
        return init_state(self.model, 1) if self._state is None else self._state

    @torch.no_grad()
    def read(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits [V] after the last of some tokens."""
        device = device_of(self.model)
        if self._decoder is None and self.room is not None and self._state is not None and len(tokens) == 1:
            self._decoder = Decoder(self.model, self._state, self.room)
        if self._decoder is not None:
            return torch.cat([self._decoder(torch.tensor([[token]], device=device)) for token in tokens])[-1, -1]
        logits_1TV = torch.empty(0)
        for first in range(0, len(tokens), CHUNK):
            chunk_1T = torch.tensor([tokens[first : first + CHUNK]], device=device)
            logits_1TV, self._state = call_for_last(self.model, chunk_1T, self._state)
        return logits_1TV[0, -1]


def call_for_last(model: nn.Module, tokens_BT: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Return the logits [B, 1, V] after the last tokens, and the state.

    Those after the others are not computed where the model says what its head reads: of a long prompt and a large
    vocabulary they would be most of the memory.
    """
    features = get_features(model)
    if features is None:
        logits_BTV, state = model(tokens_BT, state)
        return logits_BTV[:, -1:], state
    x_BTD, state = features(tokens_BT, state)
    return apply_head(model, x_BTD[:, -1:]), state


def with_room(model: nn.Module, state: State, num_tokens: int) -> State:
    """Return a state that a stream of `num_tokens` tokens does not outgrow; one without reserved room grows itself."""
    has_room = any(name.rpartition(".")[2] == RESERVED for name in state)
    return reserve_state(model, state, num_tokens) if has_room else state
