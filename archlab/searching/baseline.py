"""The result of the baseline: the training run of a search's base experiment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from archlab.errors import ArchlabError, one_line
from archlab.storage.files import write_text

_NAME = "result.json"


@dataclass(frozen=True)
class BaselineResult:
    """The metrics of the baseline, or the reason why it could not be trained."""

    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def write(self, run: Path) -> None:
        """Write result.json into the run's directory."""
        write_text(run / _NAME, json.dumps(asdict(self)))


def read_baseline(run: Path) -> BaselineResult | None:
    """Return the result in the baseline's directory, or None until the baseline has ended.

    Raises ArchlabError for a file that is not a result.
    """
    file = run / _NAME
    try:
        return BaselineResult(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
    except (OSError, ValueError, TypeError) as error:
        raise ArchlabError(f"{file}: cannot be read: {one_line(error)}") from error
