"""Text of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from archlab import ArchlabError, Count, register
from archlab.data.formats import Document, documents_of

from ._text import TextTask


@dataclass(frozen=True)
class TextFiles:
    """A file, or the files of a folder that match a pattern, hidden ones apart."""

    path: str
    glob: str
    field: str

    def __str__(self) -> str:
        return self.path

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the files, sorted by the files' names below the folder."""
        for name, path in self._files():
            yield from documents_of(name, path, self.field)

    def _files(self) -> list[tuple[str, Path]]:
        root = Path(self.path).expanduser()
        if not root.exists():
            raise ArchlabError(f"{self.path}: no such file or folder")
        if not root.is_dir():
            return [(root.name, root)]
        named = [(path.relative_to(root), path) for path in self._matches(root)]
        files = sorted((name.as_posix(), path) for name, path in named if not _hidden(name) and not path.is_dir())
        if not files:
            raise ArchlabError(f"{self.path}: no file matches {self.glob!r}")
        return files

    def _matches(self, root: Path) -> list[Path]:
        try:
            return list(root.glob(self.glob))
        except (ValueError, NotImplementedError, OSError) as error:
            raise ArchlabError(f"{self.path}: glob {self.glob!r} cannot be used: {error}") from error


def _hidden(name: PurePath) -> bool:
    return any(part.startswith(".") for part in name.parts)


@register("task", "text")
class Text(TextTask):
    """Predict the next word of a file, or of the files of a folder: plain text, JSON lines or Parquet.

    `tokenizer` is bytes, words (with a `vocab_size`) or the path of a tokenizer.json; `field` names the text in a line
    of JSON or a column. Parts named train, validation and test are taken as such; see _corpus.py for how others are
    split. Validation and test are the first `eval_bytes` bytes of their parts (null: all); describe() gives both sizes.
    """

    def __init__(
        self,
        *,
        path: str,
        glob: str = "**/*",
        field: str = "text",
        tokenizer: str = "bytes",
        vocab_size: Count | None = None,
        eval_bytes: Count | None = 524288,
    ) -> None:
        if not path or not glob or ".." in PurePath(glob).parts or PurePath(glob).is_absolute():
            raise ValueError(f"path {path!r} and glob {glob!r}: need a path, and a pattern below it")
        super().__init__(TextFiles(path, glob, field), eval_bytes, tokenizer, vocab_size)
