"""The result of the baseline: the training run of a search's base experiment."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from archlab.storage.files import write_text
from archlab.storage.json_values import read_record

_NAME = "result.json"


@dataclass(frozen=True)
class BaselineResult:
    """The metrics of the baseline, or the reason why it could not be trained, and the search that it belongs to.

    A run of a trial that has several has such a result too. `spent` is the training that it used.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    search: str = ""
    spent: dict[str, float] = field(default_factory=dict)

    def write(self, run: Path) -> None:
        """Write result.json into the run's directory."""
        write_text(run / _NAME, json.dumps(asdict(self)))


def read_baseline(run: Path) -> BaselineResult | None:
    """Return the result in the baseline's directory, or None until the baseline has ended.

    Raises ArchlabError for a file that is not a result.
    """
    file = run / _NAME
    return read_record(BaselineResult, file, "the result of a baseline") if file.is_file() else None
