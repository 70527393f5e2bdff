"""Autoregressive sampling from a model.

V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from archlab.errors import ArchlabError
from archlab.inference.sampler import Sampler
from archlab.inference.token_stream import TokenStream
from archlab.modeling.build import eval_mode
from archlab.runtime.toolchain import has_cpp_compiler

# For fewer new tokens than these, compiling the decoder takes longer than it saves.
COMPILE_MIN_TOKENS = 10_000


class TokenGenerator:
    """Reads tokens, then samples one token after another, each of which it reads when the next is asked for.

    `logits_V` are those after the tokens read so far. `last_logits_V` are those that a token was sampled from.
    """

    last_logits_V: Tensor

    def __init__(
        self, stream: TokenStream, sampler: Sampler, tokens: Sequence[int], logits_V: Tensor | None = None
    ) -> None:
        self.stream, self.sampler = stream, sampler
        self._unread, self._logits_V = list(tokens), logits_V

    def logits(self) -> Tensor:
        """Return the logits [V] after every token so far."""
        if self._unread:
            self._logits_V = self.stream.read(self._unread)
            self._unread = []
        assert self._logits_V is not None, "there is no token to continue"
        return self._logits_V

    def __call__(self) -> int:
        """Return the next token."""
        self.last_logits_V = self.logits()
        token = self.sampler(self.last_logits_V)
        self._unread = [token]
        return token


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
    """Prefill the prompt, then yield new tokens, decoded one at a time.

    `compile` compiles the decoding; by default from COMPILE_MIN_TOKENS new tokens on. Raises ArchlabError at once, not
    at the first token, for an empty prompt or a setting out of range.
    """
    if not tokens:
        raise ArchlabError("the prompt is empty: the model needs at least one token to continue")
    if max_new_tokens < 0:
        raise ArchlabError(f"max_new_tokens {max_new_tokens} is below 0")
    stream = TokenStream(model, compiled_room(len(tokens), max_new_tokens, compile))
    generator = TokenGenerator(stream, Sampler(temperature, top_k, top_p, seed), tokens)
    return _generate(model, generator, max_new_tokens)


def compiled_room(num_read: int, max_new_tokens: int, compile: bool | None) -> int | None:
    """Return how many tokens a compiled decoder needs room for, or None where decoding is not compiled."""
    compiled = max_new_tokens >= COMPILE_MIN_TOKENS and has_cpp_compiler() if compile is None else compile
    # Powers of two, so that streams of different lengths share compiled decoders.
    return 2 ** (num_read + max_new_tokens - 1).bit_length() if compiled else None


def _generate(model: nn.Module, generator: TokenGenerator, max_new_tokens: int) -> Iterator[int]:
    with eval_mode(model):
        for _ in range(max_new_tokens):
            yield generator()
