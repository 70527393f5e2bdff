"""A source of text with a weight, as a knob of components has it: in a module that needs no torch to be read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from archlab.config.domains import Positive


@dataclass(frozen=True)
class TextSource:
    """A text by its `path`, as the task `text` reads it, or a prepared `corpus`; and the share of samples from it."""

    weight: Positive
    path: str | None = None
    corpus: str | None = None
    name: str | None = None
    glob: str = "**/*"
    field: str = "text"
    split_by: Literal["names", "documents"] = "names"

    @property
    def label(self) -> str:
        """The name of the source in metrics: its own, or that of its file or directory."""
        return self.name or Path(self.path or self.corpus or "").stem
