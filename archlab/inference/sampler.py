"""Sampling of a token from logits, by temperature, top-k and top-p.

V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from archlab.errors import ArchlabError, show_value


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
