"""Where a training run starts: a checkpoint of another run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal

from archlab.config.domains import Index


@dataclass(frozen=True)
class StartFrom:
    """A checkpoint, and the parts of it to load.

    `checkpoint` is a run, a search, a trained model, an export, an import or one checkpoint, seen from the current
    directory; `step` picks one of a run's checkpoints, by default the last. `match` is `strict`; `names`, for the
    tensors that fit; or `grow`, for a smaller model whose function the larger one begins with.
    """

    checkpoint: str
    step: Index | None = None
    load: Literal["weights", "everything"] = "weights"
    match: Literal["strict", "names", "grow"] = "strict"

    def absolute(self) -> StartFrom:
        """Return the same with an absolute path, as a run records it."""
        return replace(self, checkpoint=os.path.abspath(os.path.expanduser(self.checkpoint)))

    def to_plain(self) -> dict[str, Any]:
        """Return it as YAML data."""
        plain = {"checkpoint": self.checkpoint, "step": self.step, "load": self.load, "match": self.match}
        return {key: value for key, value in plain.items() if value is not None}
