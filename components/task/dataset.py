"""Text data sets of the Hugging Face hub."""

from __future__ import annotations

from archlab import Count, register
from archlab.data.text_sources import HubDataset

from ._text import TextTask


@register("task", "dataset")
class Dataset(TextTask):
    """Predict the next token of a published data set, loaded by the datasets library when online, or from its cache.

    Args:
        name: Name of the data set, as `datasets.load_dataset` takes it.
        config: Configuration of the data set; null is its default.
        field: Name of the text column.
        tokenizer: `bytes`, `words` (separated by whitespace, with a `vocab_size`), or the path of a tokenizer.json.
        vocab_size: Number of the most frequent words that `words` keeps, `<unk>` included; null for other tokenizers.
        special_tokens: Whether special tokens work: a tokenizer's own around texts, and those that texts spell out.
        eval_bytes: Bytes of the validation and test splits that are used, from their start; null uses all.
    """

    def __init__(
        self,
        *,
        name: str,
        config: str | None = None,
        field: str = "text",
        tokenizer: str = "bytes",
        vocab_size: Count | None = None,
        special_tokens: bool = False,
        eval_bytes: Count | None = None,
    ) -> None:
        super().__init__(HubDataset(name, config, field), eval_bytes, tokenizer, vocab_size, special_tokens)
