"""Text of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from archlab.domains import Count
from archlab.errors import ArchlabError
from archlab.registry import register

from ._bytes import ByteTask


@dataclass(frozen=True)
class Folder:
    """A file, or the files of a folder that match a pattern, hidden ones apart."""

    path: str
    glob: str

    def __str__(self) -> str:
        return self.path

    def files(self) -> list[tuple[str, Path]]:
        """Return the files, sorted by their names below the folder."""
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
class Text(ByteTask):
    """Predict the bytes of a file, or of the files of a folder; see _corpus.py for how they are split.

    Validation and test are the first `eval_bytes` bytes of their parts (null: all); describe() gives both sizes.
    """

    def __init__(self, *, path: str, glob: str = "**/*", eval_bytes: Count | None = 524288) -> None:
        if not path or not glob or ".." in PurePath(glob).parts or PurePath(glob).is_absolute():
            raise ValueError(f"path {path!r} and glob {glob!r}: need a path, and a pattern below it")
        super().__init__(Folder(path, glob), eval_bytes)
