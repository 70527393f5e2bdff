"""Text files of one's own."""

from __future__ import annotations

from pathlib import PurePath

from archlab import Count, register
from archlab.data.split_names import SplitBy
from archlab.data.text_sources import TextFiles

from ._text import TextTask


@register("task", "text")
class Text(TextTask):
    """Predict the next token of a file, or of the files of a folder: plain text, JSON or tables, compressed or not.

    Files or folders named train, validation (valid, val, dev) and test are those splits, all of them or none; what no
    name tells is cut from train by the SHA-256 of the documents' names, and a single text by position: see
    archlab/data/corpus.py. describe() gives the size of each split, used and available.

    Args:
        path: File or folder to read.
        glob: Pattern, relative to the folder, of the files that are read; `*` leaves out README and LICENSE.
        field: Name of the text field of JSON, or of the text column of Parquet and Arrow files.
        tokenizer: `bytes`, `words` (separated by whitespace, with a `vocab_size`), or the path of a tokenizer.json.
        vocab_size: Number of the most frequent words that `words` keeps, `<unk>` included; null for other tokenizers.
        special_tokens: Whether special tokens work: a tokenizer's own around texts, and those that texts spell out.
        eval_bytes: Bytes of the validation and test splits that are used, from their start; null uses all.
        split_by: `names` of files and folders that determine splits, or `documents` whatever their names are.
    """

    def __init__(
        self,
        *,
        path: str,
        glob: str = "**/*",
        field: str = "text",
        tokenizer: str = "bytes",
        vocab_size: Count | None = None,
        special_tokens: bool = False,
        eval_bytes: Count | None = 524288,
        split_by: SplitBy = "names",
    ) -> None:
        if not path or not glob or ".." in PurePath(glob).parts or PurePath(glob).is_absolute():
            raise ValueError(f"path {path!r} and glob {glob!r}: need a path, and a pattern below it")
        super().__init__(TextFiles(path, glob, field, split_by), eval_bytes, tokenizer, vocab_size, special_tokens)
