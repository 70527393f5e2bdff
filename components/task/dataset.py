"""Text by the name under which it is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archlab import ArchlabError, Count, did_you_mean, one_line, register
from archlab.data.corpus import NAMES
from archlab.data.formats import Document

from ._text import TextTask


@dataclass(frozen=True)
class HubDataset:
    """A data set of the datasets library: a column of text in train, validation and test."""

    name: str
    config: str | None
    field: str

    def __str__(self) -> str:
        return self.name if self.config is None else f"{self.name} ({self.config})"

    def documents(self) -> Iterator[Document]:
        """Yield the rows of every part under the part's name."""
        loaded = self._loaded()
        for split, words in NAMES.items():
            rows = self._rows(loaded, words)
            if self.field not in rows.column_names:
                raise ArchlabError(f"{self}: no column {self.field!r}{did_you_mean(self.field, rows.column_names)}")
            yield from ((f"{split}/{place}", row[self.field].encode()) for place, row in enumerate(rows))

    def _rows(self, loaded: Mapping[str, Any], names: tuple[str, ...]) -> Any:
        found = next((name for name in names if name in loaded), None)
        if found is None:
            raise ArchlabError(f"{self}: has no {names[0]} part, only {', '.join(loaded)}")
        return loaded[found]

    def _loaded(self) -> Any:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ArchlabError(f"{self}: needs the datasets library: pip install datasets") from error
        try:
            return load_dataset(self.name, self.config)
        except Exception as error:  # network, names, configurations: the library raises many kinds
            what = "cannot be loaded; it must be known to the datasets library, and online or in its cache"
            raise ArchlabError(f"{self}: {what}: {one_line(error)}") from error


@register("task", "dataset")
class Dataset(TextTask):
    """Predict the next word of a published data set, loaded by the datasets library when online, or from its cache.

    `tokenizer`, `field`, `vocab_size` and `eval_bytes` are those of the task text.
    """

    def __init__(
        self,
        *,
        name: str,
        config: str | None = None,
        field: str = "text",
        tokenizer: str = "bytes",
        vocab_size: Count | None = None,
        eval_bytes: Count | None = None,
    ) -> None:
        super().__init__(HubDataset(name, config, field), eval_bytes, tokenizer, vocab_size)
