"""Autoregressive sampling from a model.

T time, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from archlab.errors import ArchlabError, show_value
from archlab.inference.decoder import Decoder
from archlab.modeling.build import device_of, eval_mode
from archlab.modeling.state import State
from archlab.runtime.toolchain import has_cpp_compiler

# For fewer new tokens than these, compiling the decoder takes longer than it saves.
COMPILE_MIN_TOKENS = 10_000


class Sampler:
    """Samples a token from logits with a random generator of its own; temperature 0 takes the most likely token.

    Raises ArchlabError for a setting out of range.
    """

    def __init__(self, temperature: float, top_k: int | None, top_p: float | None, seed: int) -> None:
        if not 0 <= temperature < math.inf:
            raise ArchlabError(f"temperature {temperature} is not a number at least 0")
        if top_k is not None and top_k < 1:
            raise ArchlabError(f"top_k {top_k} is below 1")
        if top_p is not None and not 0 < top_p <= 1:
            raise ArchlabError(f"top_p {top_p} is not above 0 and at most 1")
        if not -(2**63) <= seed < 2**63:
            raise ArchlabError(f"seed {show_value(seed)} is not between -2^63 and 2^63 - 1")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits_V: Tensor) -> int:
        """Return the next token; raise ArchlabError if the logits are not finite."""
        # In float64 on the CPU, where the generator is: sampling itself does not depend on device or precision.
        logits_V = logits_V.cpu().double()
        maximum, best = logits_V.max(), int(logits_V.argmax())
        if not maximum.isfinite():
            raise ArchlabError("the model's output is not a finite number: its weights may be damaged")
        if self.temperature == 0:
            return best
        probabilities = self._filter(((logits_V - maximum) / self.temperature).softmax(-1))
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def _filter(self, probabilities: Tensor) -> Tensor:
        """Keep the `top_k` most likely tokens, and of these the fewest whose share of their sum reaches `top_p`."""
        ordered, tokens = probabilities.sort(descending=True, stable=True)
        if self.top_k is not None:
            ordered[min(self.top_k, len(ordered)) :] = 0
        if self.top_p is not None:
            before = ordered.cumsum(-1) - ordered
            ordered = ordered.where(before < self.top_p * ordered.sum(), 0)
        return torch.zeros_like(probabilities).scatter(0, tokens, ordered)


def generate(
    model: nn.Module,
    tokens: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    compile: bool | None = None,
) -> Iterator[int]:
    """Prefill the prompt in one call, then yield new tokens, decoded one at a time.

    `compile` compiles the decoding; by default from COMPILE_MIN_TOKENS new tokens on. Raises ArchlabError at once, not
    at the first token, for an empty prompt or a setting out of range.
    """
    if not tokens:
        raise ArchlabError("the prompt is empty: the model needs at least one token to continue")
    if max_new_tokens < 0:
        raise ArchlabError(f"max_new_tokens {max_new_tokens} is below 0")
    compiled = max_new_tokens >= COMPILE_MIN_TOKENS and has_cpp_compiler() if compile is None else compile
    return _generate(model, list(tokens), max_new_tokens, Sampler(temperature, top_k, top_p, seed), compiled)


@torch.no_grad()
def _generate(
    model: nn.Module, tokens: list[int], max_new_tokens: int, sampler: Sampler, compiled: bool
) -> Iterator[int]:
    # Powers of two, so that streams of different lengths share compiled decoders.
    room = 2 ** (len(tokens) + max_new_tokens - 1).bit_length() if compiled else None
    stream, device = _TokenStream(model, room), device_of(model)
    with eval_mode(model):
        for _ in range(max_new_tokens):
            logits_1TV = stream(torch.tensor([tokens], device=device))
            tokens = [sampler(logits_1TV[0, -1])]
            yield tokens[0]


class _TokenStream:
    """Calls a model on successive tokens of a stream, then with a decoder compiled for `room` tokens, if any."""

    def __init__(self, model: nn.Module, room: int | None) -> None:
        self.model, self.room = model, room
        self.state: State | None = None
        self.decoder: Decoder | None = None

    def __call__(self, tokens_1T: Tensor) -> Tensor:
        if self.decoder is not None:
            return self.decoder(tokens_1T)
        logits_1TV, self.state = self.model(tokens_1T, self.state)
        if self.room is not None:
            self.decoder = Decoder(self.model, self.state, self.room)
        return logits_1TV
