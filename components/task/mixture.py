"""Several texts with weights.

B batch, T time (context).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from archlab import Count, TextSource, register
from archlab.data.documents import Document
from archlab.data.mixing import Mixing
from archlab.data.prepared import PreparedCorpus
from archlab.data.splits import SPLITS
from archlab.data.task import Task
from archlab.data.text_sources import TextFiles

from ._corpus import CorpusTask
from ._text import TextTask
from ._tokenized import TokenizedTask
from .prepared import ANY_SIZE, Prepared

_NAME = re.compile(r"[\w-]+")


@register("task", "mixture")
class Mixture(TokenizedTask):
    """Predict the next token of several texts, of which each has its share of the samples.

    Which source sample n of a run is from is a function of n: of any first samples each source has its share, to less
    than a sample for each source. Within a source samples are as in the task `text`. Each source is evaluated by
    itself, as `loss_NAME`; the loss is the mean of theirs with the shares as weights.

    Args:
        sources: A list of mappings: `weight` (0.7), and `path` with `glob`, `field`, `split_by`, or `corpus`; `name`.
        tokenizer: `bytes`, or a tokenizer.json or vocabulary.json; null is that of a prepared corpus, or else bytes.
        special_tokens: Whether special tokens work: a tokenizer's own around texts, and those that texts spell out.
        vocab_size: Number of tokens of the model, where the tokenizer has fewer; null is as many.
        eval_bytes: Bytes of the validation and test splits of each source that are used; null uses all.
    """

    has_documents = True

    def __init__(
        self,
        *,
        sources: list[TextSource],
        tokenizer: str | None = None,
        special_tokens: bool = False,
        vocab_size: Count | None = None,
        eval_bytes: Count | None = 524288,
    ) -> None:
        _require_sources(sources)
        if tokenizer == "words":
            raise ValueError("tokenizer 'words': name the vocabulary.json of a text, the same for all sources")
        self.sources, self.special_tokens, self.eval_bytes = sources, special_tokens, eval_bytes
        self.own_tokenizer, self.own_vocab_size = tokenizer, vocab_size
        self.mixing = Mixing([source.weight for source in sources])
        self.names = [source.label for source in sources]
        self.metrics = ("loss", "bpb", *(f"loss_{name}" for name in self.names))

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """The number of tokens."""
        return self.own_vocab_size or self.tokenizer.vocab_size

    @property
    def tokenizer_name(self) -> str:  # type: ignore[override]
        """The tokenizer's file, or `bytes`."""
        if self.own_tokenizer is not None:
            return self.own_tokenizer
        prepared = next((source.corpus for source in self.sources if source.corpus), None)
        return "bytes" if prepared is None else self._prepared(prepared, None).tokenizer_name

    @cached_property
    def parts(self) -> list[CorpusTask]:
        """The tasks of the sources."""
        return [self._part(source) for source in self.sources]

    def _part(self, source: TextSource) -> CorpusTask:
        if source.corpus is not None:
            return self._prepared(source.corpus, self.tokenizer_name)
        files = TextFiles(source.path or "", source.glob, source.field, source.split_by)
        return TextTask(files, self.eval_bytes, self.tokenizer_name, None, self.special_tokens)

    def _prepared(self, corpus: str, tokenizer: str | None) -> Prepared:
        size = self.own_vocab_size or ANY_SIZE
        return Prepared(corpus=corpus, vocab_size=size, tokenizer=tokenizer, special_tokens=self.special_tokens or None)

    def shares(self) -> Mapping[str, float]:
        """Return the share of each source by its name."""
        return dict(zip(self.names, self.mixing.shares, strict=True))

    def eval_parts(self) -> Mapping[str, tuple[float, Task]]:
        """Return the share and the task of each source by its name."""
        return {name: (share, part) for (name, share), part in zip(self.shares().items(), self.parts, strict=True)}

    def require_sources(self) -> None:
        """Raise ArchlabError if a prepared corpus is not there."""
        for part in self.parts:
            part.require_sources()

    def check(self, context: int = 1) -> None:
        """Raise ArchlabError unless every split of every source can be read and has a window of `context`."""
        for part in self.parts:
            part.check(context)

    def prepare(self) -> Sequence[PreparedCorpus]:
        """Make the tokens of every source."""
        return [corpus for part in self.parts for corpus in part.prepare()]

    def describe(self) -> dict[str, Any]:
        """Return the sources as data, and their sums."""
        facts = {name: part.describe() for name, part in zip(self.names, self.parts, strict=True)}
        sums = {
            key: {split: sum(fact[key][split] for fact in facts.values()) for split in SPLITS}
            for key in ("bytes", "bytes_available")
        }
        shares, digest = dict(zip(self.names, self.mixing.weights, strict=True)), hashlib.sha256()
        for name, fact in facts.items():
            digest.update(f"{name} {shares[name]} {fact['sha256']} ".encode())
        sources = {name: {"weight": shares[name], "sha256": fact["sha256"]} for name, fact in facts.items()}
        documents = sum(fact["documents"] for fact in facts.values())
        source = ", ".join(f"{fact['source']} ({shares[name]})" for name, fact in facts.items())
        tokenizer = {} if self.tokenizer_name == "bytes" else {"tokenizer": self.model_tokens().to_plain()}
        sha256 = digest.hexdigest()
        return {"source": source, **sums, "documents": documents, "sha256": sha256, "sources": sources, **tokenizer}

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of a step: a function of the arguments alone."""
        start, stop = step * batch_size, (step + 1) * batch_size
        return self.rows(split, start, stop, batch_size=batch_size, context=context, seed=seed)

    def rows(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of samples of a run; see `Task.rows`."""
        # Of consecutive samples those of one source are consecutive there.
        own = torch.tensor(self.mixing.sources(start, stop))
        inputs, targets = (torch.empty(stop - start, context, dtype=torch.int64) for _ in range(2))
        for index, (first, last) in enumerate(zip(self.mixing.counts(start), self.mixing.counts(stop), strict=True)):
            if first < last:
                sizes = {"batch_size": batch_size, "context": context, "seed": seed}
                inputs[own == index], targets[own == index] = self.parts[index].rows(split, first, last, **sizes)
        return inputs, targets

    def documents(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> list[Document]:
        """Return inputs and targets of each document in the same samples; see `Task.documents`."""
        sizes = {"batch_size": batch_size, "context": context, "seed": seed}
        ranges = zip(self.parts, self.mixing.counts(start), self.mixing.counts(stop), strict=True)
        return [each for part, first, last in ranges for each in part.documents(split, first, last, **sizes)]

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets [B, T] of one source after the other; `max_tokens` are divided among them."""
        for part in self.parts:
            yield from part.eval_batches(split, batch_size, context, self._share_of(max_tokens))

    def num_eval_targets(self, split: str, context: int, max_tokens: int | None = None) -> int:
        """Return the number of targets of `eval_batches`."""
        return sum(part.num_eval_targets(split, context, self._share_of(max_tokens)) for part in self.parts)

    def _share_of(self, max_tokens: int | None) -> int | None:
        return None if max_tokens is None else math.ceil(max_tokens / len(self.parts))

    def bytes_per_token(self, split: str) -> float:
        """Return the mean number of bytes of a token of the mixture."""
        return sum(share * part.bytes_per_token(split) for share, part in self.eval_parts().values())

    def has_bits_per_byte(self, split: str) -> bool:
        """Return whether the tokens of every source keep its text."""
        kept = [part.has_bits_per_byte(split) for part in self.parts]  # each of them, since losses are logged
        return all(kept)


def _require_sources(sources: Sequence[TextSource]) -> None:
    if not sources:
        raise ValueError("sources is empty: need one or more")
    labels = [source.label for source in sources]
    for index, source in enumerate(sources):
        if (source.path is None) == (source.corpus is None):
            raise ValueError(f"sources[{index}]: needs a path or a prepared corpus, and not both")
        if not _NAME.fullmatch(labels[index]):
            raise ValueError(f"sources[{index}]: {labels[index]!r} cannot name a metric; give it a name")
        if labels[index] in labels[:index]:
            raise ValueError(f"sources[{index}]: {labels[index]!r} is the name of another source; give it a name")
