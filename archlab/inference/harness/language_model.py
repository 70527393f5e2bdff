"""Any model of archlab as a language model of EleutherAI's lm-eval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import DEFAULT_MAX_LENGTH, handle_stop_sequences, normalize_gen_kwargs

from archlab.data.tokenizers import SEPARATOR
from archlab.data.tokenizers.special_tokens import special_tokens
from archlab.errors import ArchlabError
from archlab.inference.batch import decode_rows
from archlab.inference.evaluate import autocast
from archlab.inference.harness.request_row import RequestRow
from archlab.inference.harness.scoring import Continuation, Score, score_continuations
from archlab.inference.text_model import TextModel
from archlab.modeling.build import device_of
from archlab.modeling.state import max_context
from archlab.runtime.mixed_precision import resolve_precision
from archlab.storage.trained_model import load_trained_or_export

Progress: TypeAlias = Callable[[str, int, int], None]
_NEW_TOKENS = 256  # where a task does not say, as for lm-eval's other models
_NO_LIMIT = 2**62


@register_model("archlab")
class ArchlabLM(TemplateLM):  # type: ignore[misc, unused-ignore]
    """A trained model, and the tokenizer that it carries.

    Texts are cut to `max_length` tokens as lm-eval's model for transformers does it: by default to the number that full
    attention keeps, or 2,048 for a model without such a limit. With `whole_documents` nothing is cut, and the state is
    carried from the first token of a text to the last. Rows are never padded. Raises ArchlabError for a model of
    something else than text, and a length that it cannot read.
    """

    def __init__(
        self,
        model: TextModel,
        *,
        max_length: int | None = None,
        whole_documents: bool = False,
        batch_size: int = 8,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        super().__init__()
        self.model, self.batch_size, self.progress, self.whole_documents = model, batch_size, progress, whole_documents
        self.max_length = _NO_LIMIT if whole_documents else max_length or DEFAULT_MAX_LENGTH
        limit, asked = max_context(model.model), "whole documents" if whole_documents else f"{self.max_length:,} tokens"
        if limit is not None and limit < self.max_length:
            if whole_documents or max_length is not None:
                raise ArchlabError(f"{asked}: the model's full attention keeps {limit:,} tokens and no more")
            self.max_length = limit
        self.precision = resolve_precision(model.experiment.train.precision, device_of(model.model))
        self.num_tokens = 0  # read so far
        self._read_special_tokens()

    def _read_special_tokens(self) -> None:
        task = self.model.task
        tokens = task.model_tokens()
        if tokens is None or not task.predicts_next:
            raise ArchlabError("lm-eval needs a model of text; this one reads something else")
        special = special_tokens(tokens)
        self._prefix = list(task.encode(""))
        self._end = special.eos or (SEPARATOR.decode() if tokens.kind == "bytes" else None)
        # Where no token ends a text, a line's end is as good a beginning: something must come before the first token.
        ends = [special.eos_id] if special.eos_id is not None else task.encode_continuation(self._end or "\n")
        self._eot = ends[-1]
        self._bos = special.bos_id

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> ArchlabLM:
        """Load `checkpoint`: a run, a search, a trained model or an export.

        lm_eval.simple_evaluate(model="archlab", model_args={"checkpoint": "runs/a"}, tasks=["piqa"])
        """
        given = {**arg_dict, **{name: value for name, value in (additional_config or {}).items() if value is not None}}
        folder, device = Path(given.pop("checkpoint")), given.pop("device", "cpu")
        given.pop("max_batch_size", None)  # for a batch size that is searched for
        return cls(TextModel(*load_trained_or_export(folder, device)), **given)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> ArchlabLM:
        """Do the same with `checkpoint=runs/a,max_length=4096`."""
        return cls.create_from_arg_obj(utils.simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._eot

    @property
    def prefix_token_id(self) -> int:
        """The token before a text of which the first token is scored, too."""
        return self._eot if self._bos is None else self._bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """Return the tokens of a text, after the special tokens that the model has seen before every text.

        Special tokens that the text itself begins with are not repeated.
        """
        tokens: list[int] = self.model.task.encode_continuation(string)
        is_there = tokens[: len(self._prefix)] == self._prefix
        return tokens if is_there or add_special_tokens is False else [*self._prefix, *tokens]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Score]:
        """Return the log-likelihood of each continuation after its context, and whether it is the most likely one."""
        scores: list[Score] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of each text, in windows as lm-eval cuts them, or read as one."""
        windows: list[tuple[int, Continuation]] = [
            (index, window) for index, request in enumerate(requests) for window in self._windows(request.args[0])
        ]
        sums = [0.0] * len(requests)
        scores = self._score("documents", [window for _, window in windows])
        for (index, _), (logprob, _) in zip(windows, scores, strict=True):
            sums[index] += logprob
        return sums

    def _windows(self, text: str) -> Sequence[Continuation]:
        tokens, prefix = self.tok_encode(text), self.prefix_token_id
        if self.whole_documents:
            return [([prefix], tokens)] if tokens else []
        windows = utils.get_rolling_token_windows(
            token_list=tokens, prefix_token=prefix, max_seq_len=self.max_length, context_len=1
        )
        return [utils.make_disjoint_window(window) for window in windows]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: object
    ) -> list[Score]:
        return self._score("answers", [(context, continuation) for _, context, continuation in requests])

    def _score(self, what: str, requests: Sequence[Continuation]) -> list[Score]:
        kept = [self._cut(context, continuation) for context, continuation in requests]
        self.num_tokens += sum(len(context) + len(continuation) - 1 for context, continuation in kept)
        with autocast(self.model.model, self.precision):
            return score_continuations(
                self.model.model,
                kept,
                batch_size=self.batch_size,
                progress=lambda done, total: self.progress(f"scoring {what}", done, total),
            )

    def _cut(self, context: Sequence[int], continuation: Sequence[int]) -> Continuation:
        """Return the last tokens of a context that fit before a continuation, as lm-eval cuts them: from the left."""
        if not continuation:
            raise ArchlabError("a task asks for the likelihood of a text without tokens")
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise ArchlabError(f"an answer has {len(continuation):,} tokens, more than the {self.max_length:,} read")
        return context[-room:], continuation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Return the text after each prompt, up to one of its stop texts, each as it would be alone."""
        rows = [self._row(index, *request.args) for index, request in enumerate(requests)]
        texts = dict[int, str]()
        with autocast(self.model.model, self.precision):
            for row in decode_rows(self.model.model, rows, self.batch_size):
                assert isinstance(row, RequestRow)
                texts[row.index] = row.text()
                self.num_tokens += len(row.tokens) + row.num_new
                self.progress("writing answers", len(texts), len(rows))
        return [texts[index] for index in range(len(rows))]

    def _row(self, index: int, prompt: str, settings: dict[str, Any]) -> RequestRow:
        asked: dict[str, Any] = dict(normalize_gen_kwargs(settings, _NEW_TOKENS))
        num_new = asked.pop("max_gen_toks")
        if num_new >= self.max_length:
            raise ArchlabError(f"an answer of {num_new:,} tokens leaves none of {self.max_length:,} to its prompt")
        tokens = self.tok_encode(prompt)[-(self.max_length - num_new) :]
        stop = [each for each in handle_stop_sequences(asked.pop("until"), self._end) if each]
        return RequestRow(index, self.model.task, tokens or [self.prefix_token_id], num_new, stop, asked)
