"""An answer that a task of lm-eval asks for, as one of a batch.

V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from archlab.data.task import Task
from archlab.errors import ArchlabError
from archlab.inference.sampler import Sampler
from archlab.inference.text_output import TextOutput

# Settings of sampling that archlab has too; others of transformers would be ignored.
_KNOWN = {"do_sample", "temperature", "top_k", "top_p", "seed"}


class RequestRow:
    """A prompt, the stop texts of its answer, and the answer so far; raises ArchlabError for an unknown setting."""

    def __init__(
        self,
        index: int,
        task: Task,
        tokens: Sequence[int],
        num_new: int,
        stop: Sequence[str],
        settings: Mapping[str, object],
    ) -> None:
        if unknown := sorted(set(settings) - _KNOWN):
            names = ", ".join(unknown)
            raise ArchlabError(f"a task asks to generate with {names}; archlab knows {', '.join(sorted(_KNOWN))}")
        self.index, self.tokens, self.max_length = index, tokens, len(tokens) + num_new
        self.sampler = _sampler(settings, index)
        self.output = TextOutput(task, (), stop)  # as other harnesses decode: an answer's first word has no space
        self.num_new, self._texts = 0, list[str]()

    @property
    def is_done(self) -> bool:
        """Whether a stop text was found, or as many tokens as are asked for."""
        return self.output.found is not None or len(self.tokens) + self.num_new == self.max_length

    def add(self, logits_V: Tensor) -> int:
        """Return the next token."""
        token = self.sampler(logits_V)
        self._texts += [each.text for each in self.output.add(token, logits_V)]
        self.num_new += 1
        return token

    def text(self) -> str:
        """Return the answer."""
        return "".join([*self._texts, *(token.text for token in self.output.finish())])


def _sampler(settings: Mapping[str, object], index: int) -> Sampler:
    is_sampled = bool(settings.get("do_sample"))
    temperature = float(str(settings.get("temperature", 0.0))) if is_sampled else 0.0
    top_k, top_p = settings.get("top_k"), settings.get("top_p")
    return Sampler(
        temperature,
        int(str(top_k)) if top_k else None,
        None if top_p is None else float(str(top_p)),
        int(str(settings.get("seed", index))),
    )
