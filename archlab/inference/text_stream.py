"""One text that a model writes, from a prompt or a saved state to its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from archlab.data.task import Task
from archlab.inference.generate import TokenGenerator
from archlab.inference.prompts import GeneratedToken, Settings
from archlab.inference.saved_state import SavedState, save_state
from archlab.inference.text_output import TextOutput
from archlab.modeling.build import eval_mode

_CONTEXT = 64  # tokens that a state is saved with: the next token's text may depend on them


@dataclass(frozen=True)
class StateFiles:
    """Files that a generation starts from, if any, and that its end is written to, if any."""

    load: Path | None = None
    save: Path | None = None
    force: bool = False


class TextStream:
    """A single stream, from a prompt or a saved state to its end."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        generator: TokenGenerator,
        settings: Settings,
        saved: SavedState | None,
        tokens: Sequence[int],
    ) -> None:
        self.model, self.task, self.generator, self.settings, self.saved = model, task, generator, settings, saved
        context = [*(saved.context if saved else ()), *tokens[-_CONTEXT:]]
        self.position = len(tokens) + (saved.position if saved else 0)
        self.is_prompted = bool(tokens)
        # Those of a held text may be many: a stop text can be long.
        self.recent = deque(context, maxlen=16 * _CONTEXT)
        self.output = self._output(context)

    def _output(self, context: Sequence[int]) -> TextOutput:
        return TextOutput(self.task, context, self.settings.stop, self.settings.logprobs)

    def run(self, files: StateFiles) -> Iterator[GeneratedToken]:
        """Yield the tokens whose text is certain, then write the state if it is asked for."""
        yield from self._held_text()
        with eval_mode(self.model):
            for _ in range(self.settings.max_new_tokens):
                if self.output.found is not None:
                    break
                token = self.generator()
                self.recent.append(token)
                self.position += 1
                yield from self.output.add(token, self.generator.last_logits_V)
            if files.save is not None:
                save_state(files.save, self.model, self.end(), force=files.force)
                return  # the held text is left for the continuation
        yield from self.output.finish()

    def _held_text(self) -> Iterator[GeneratedToken]:
        """Yield the text that the saved generation held back: all of it before a prompt, otherwise the certain part."""
        if self.saved is None or not self.saved.held:
            return
        if self.is_prompted:
            before = TextOutput(self.task, self.saved.context)
            for token in self.saved.held:
                yield from before.add_scored(token)
            yield from before.finish()
            return
        self.recent.extend(token.token for token in self.saved.held)
        for token in self.saved.held:
            if self.output.found is None:
                yield from self.output.add_scored(token)

    def end(self) -> SavedState:
        """Return the position of the stream, from which another can continue."""
        logits_V, held = self.generator.logits(), self.output.held
        context = list(self.recent)[: len(self.recent) - len(held)][-_CONTEXT:]
        random = self.generator.sampler.generator.get_state()
        return SavedState(self.generator.stream.state, logits_V, random, self.position, context, held)
