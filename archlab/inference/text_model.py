"""A trained model that continues texts, one as a stream or several as a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.errors import ArchlabError, is_unicode
from archlab.inference.batch import decode_rows
from archlab.inference.generate import TokenGenerator, compiled_room
from archlab.inference.prompts import GeneratedToken, Generation, Prompt, Settings
from archlab.inference.sampler import Sampler
from archlab.inference.saved_state import SavedState, load_state, require_state_file
from archlab.inference.text_output import TextOutput
from archlab.inference.text_stream import StateFiles, TextStream
from archlab.inference.token_stream import TokenStream, with_room
from archlab.modeling.state import max_context
from archlab.runtime.progress import report_progress
from archlab.storage.trained_model import load_trained


class TextModel:
    """A model, and the task that makes tokens of texts."""

    def __init__(self, experiment: Experiment, model: nn.Module) -> None:
        self.experiment, self.model = experiment, model
        self.task: Task = experiment.task.factory()()

    @classmethod
    def load(cls, folder: Path) -> TextModel:
        """Load the trained model of a run, a search or a checkpoint."""
        return cls(*load_trained(folder))

    def encode(self, text: str, *, is_continuation: bool = False) -> list[int]:
        """Return a text's tokens; raise ArchlabError for one that the model cannot read."""
        if not is_unicode(text):
            raise ArchlabError(f"the prompt is not UTF-8: {ascii(text)[:200]}")
        # A task need not derive from Task, and those of before it could continue with a text have no such method.
        encode = getattr(self.task, "encode_continuation", self.task.encode) if is_continuation else self.task.encode
        tokens: list[int] = encode(text)
        vocab_size = self.experiment.model.knobs.get("vocab_size")
        if tokens and vocab_size is not None and max(tokens) >= vocab_size:
            raise ArchlabError(
                f"the prompt has the token {max(tokens)}, but the model's vocabulary ends at {vocab_size - 1}"
            )
        if not tokens:
            raise ArchlabError("the prompt is empty: the model needs at least one token to continue")
        return tokens

    def require_context(self, num_read: int, max_new_tokens: int) -> None:
        """Raise ArchlabError where full attention keeps fewer tokens than those read and those asked for."""
        limit = max_context(self.model)
        if limit is not None and num_read + max_new_tokens > limit:
            raise ArchlabError(
                f"a prompt of {num_read} tokens and {max_new_tokens} new ones are more than the {limit} "
                "that the model's full attention keeps; ask for fewer with --tokens"
            )

    def stream(
        self,
        prompt: str | None,
        settings: Settings,
        *,
        seed: int | None = None,
        compile: bool | None = None,
        files: StateFiles | None = None,
    ) -> Iterator[GeneratedToken]:
        """Continue a prompt, or a saved state, or a prompt after one; without a `seed` the state's numbers continue.

        Raises ArchlabError at once for an impossible request.
        """
        files = files or StateFiles()
        if files.save is not None:
            require_state_file(files.save, force=files.force)
        saved = None if files.load is None else load_state(files.load, self.model)
        return self.open_stream(prompt, settings, saved=saved, seed=seed, compile=compile).run(files)

    def open_stream(
        self,
        prompt: str | None,
        settings: Settings,
        *,
        saved: SavedState | None = None,
        seed: int | None = None,
        compile: bool | None = None,
    ) -> TextStream:
        """Return the stream that continues a prompt, or where another ended, or a prompt after it; nothing is read yet.

        Raises ArchlabError for an impossible request.
        """
        is_prompted = saved is None or bool(prompt)
        tokens = self.encode(prompt or "", is_continuation=saved is not None) if is_prompted else []
        num_read = len(tokens) + (saved.position if saved else 0)
        self.require_context(num_read, settings.max_new_tokens)
        sampler = Sampler(settings.temperature, settings.top_k, settings.top_p, seed or 0)
        if saved is not None and seed is None:
            sampler.generator.set_state(saved.random)
        room = compiled_room(num_read, settings.max_new_tokens, compile)
        state = None if saved is None else with_room(self.model, saved.state, num_read + settings.max_new_tokens)
        stream = TokenStream(self.model, room, state)
        generator = TokenGenerator(stream, sampler, tokens, saved.logits_V if saved else None)
        return TextStream(self.model, self.task, generator, settings, saved, tokens)

    def batch(self, prompts: Sequence[Prompt], defaults: Settings, batch_size: int) -> Iterator[Generation]:
        """Continue prompts, several at a time, each as it would be alone; yield the results in their order.

        Raises ArchlabError at once, naming the source of a prompt that cannot be continued.
        """
        if batch_size < 1:
            raise ArchlabError(f"batch_size {batch_size} is below 1")
        rows = [self._row(index, prompt, defaults) for index, prompt in enumerate(prompts)]
        return self._batch(rows, batch_size)

    def _row(self, index: int, prompt: Prompt, defaults: Settings) -> _Row:
        try:
            return _Row(self, index, prompt, prompt.settings(defaults))
        except ArchlabError as error:
            raise ArchlabError(f"{prompt.source or f'prompt {index}'}: {error}") from error

    def _batch(self, rows: list[_Row], batch_size: int) -> Iterator[Generation]:
        total, following, done = len(rows), 0, dict[int, Generation]()
        for count, row in enumerate(decode_rows(self.model, _consume(rows), batch_size), 1):
            assert isinstance(row, _Row)
            done[row.index] = row.result()
            report_progress("generating", count, total)
            while following in done:
                yield done.pop(following)
                following += 1


def _consume(rows: list[_Row]) -> Iterator[_Row]:
    """Yield rows and drop them, so that finished ones take no memory."""
    rows.reverse()
    while rows:
        yield rows.pop()


class _Row:
    """A prompt of a batch, and its continuation so far."""

    def __init__(self, model: TextModel, index: int, prompt: Prompt, settings: Settings) -> None:
        self.index, self.prompt, self.settings = index, prompt, settings
        self.tokens = model.encode(prompt.text)
        self.max_length = len(self.tokens) + settings.max_new_tokens
        model.require_context(len(self.tokens), settings.max_new_tokens)
        self.sampler = Sampler(settings.temperature, settings.top_k, settings.top_p, settings.seed)
        self.output = TextOutput(model.task, self.tokens, settings.stop, settings.logprobs)
        self.num_new, self.given = 0, list[GeneratedToken]()

    @property
    def is_done(self) -> bool:
        """Whether a stop text was found, or as many tokens as are asked for."""
        return self.output.found is not None or self.num_new == self.settings.max_new_tokens

    def add(self, logits_V: Tensor) -> int:
        """Return the next token."""
        token = self.sampler(logits_V)
        self.given += self.output.add(token, logits_V)
        self.num_new += 1
        return token

    def result(self) -> Generation:
        """Return the continuation."""
        tokens = (*self.given, *self.output.finish())
        text, found = "".join(token.text for token in tokens), self.output.found
        return Generation(self.prompt, text, tokens, "length" if found is None else "stop", found)
