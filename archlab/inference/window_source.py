"""Sources of windows for evaluation: a split of a task, or any text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from archlab.data.file_types import require_text, require_utf8
from archlab.data.task import Task
from archlab.data.windows import count_targets, iter_windows
from archlab.errors import ArchlabError, why_unreadable
from archlab.ops.linear_cross_entropy import IGNORED


def read_text(file: Path) -> str:
    """Read a text; raise ArchlabError for a file that cannot be read or holds none in UTF-8."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArchlabError(f"{file}: cannot be read: {why_unreadable(error)}") from None
    text = require_text(data, str(file))
    require_utf8(text, str(file))
    if not text:
        raise ArchlabError(f"{file}: is empty")
    return text.decode()


class WindowSource(Protocol):
    """A text to read in windows of any length."""

    name: str

    def num_targets(self, context: int, most: int | None) -> int:
        """Return how many tokens can be predicted, at most the given number."""

    def batches(self, rows: int, context: int, num_targets: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets of the first tokens, once and in order."""


class SplitSource:
    """A split of a task."""

    def __init__(self, task: Task, split: str, task_name: str) -> None:
        self.task, self.split, self.name = task, split, f"the {split} split of the task {task_name!r}"

    def num_targets(self, context: int, most: int | None) -> int:
        """Return how many tokens can be predicted, counted if the task does not know it."""
        known = self.task.num_eval_targets(self.split, context, most)
        if known is not None:
            return known
        return sum(
            int((targets != IGNORED).sum()) for _, targets in self.task.eval_batches(self.split, 1, context, most)
        )

    def batches(self, rows: int, context: int, num_targets: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the windows with which the split is evaluated."""
        return self.task.eval_batches(self.split, rows, context, num_targets)


class TextSource:
    """All of a text, in the tokens of a task, whose prefix begins every window."""

    name = "the text"

    def __init__(self, task: Task, text: str) -> None:
        self.tokens, self.prefix = np.array(task.encode_continuation(text)), task.encode("")

    def num_targets(self, context: int, most: int | None) -> int:
        """Return how many tokens can be predicted."""
        return count_targets(self.tokens, 0 if self.prefix else 1, most)

    def batches(self, rows: int, context: int, num_targets: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield windows that cover the text."""
        return iter_windows(self.tokens, rows, context, num_targets, self.prefix)
