"""Metrics of a run: metrics.jsonl, one JSON object per line, and TensorBoard event files."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from archlab.storage.files import write_bytes
from archlab.training.metrics_file import NAME, read_kept, read_log
from archlab.training.tensorboard import open_summary_writer


class MetricsLog:
    """Appends records with a `step` to the log; a resumed log first drops the records after `resume_step`.

    `resume_step=None` starts a new log. `expected` is the `summary` of the log when the checkpoint was saved: a log
    that does not begin with the same bytes is refused. NaN and infinity are written as null, which JSON has no number
    for.
    """

    def __init__(
        self, folder: Path, *, tensorboard: bool, resume_step: int | None, expected: Mapping[str, Any] | None = None
    ) -> None:
        # Records after the checkpoint are written again when their steps are made again.
        kept = b"" if resume_step is None else read_kept(folder / NAME, resume_step, expected)
        first_step = 0 if resume_step is None else resume_step + 1
        self._board = open_summary_writer(folder / "tensorboard", first_step) if tensorboard else None
        write_bytes(folder / NAME, kept)
        self._size, self._digest = len(kept), hashlib.sha256(kept)
        self._file = (folder / NAME).open("ab")

    def summary(self) -> dict[str, Any]:
        """Return size and SHA-256 of the log, once it is on disk: a checkpoint that has them must not outlive it."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    def append(self, record: Mapping[str, float]) -> None:
        """Write one record and flush it."""
        line = _line(record).encode()
        self._file.write(line)
        self._file.flush()
        self._size += len(line)
        self._digest.update(line)
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and _is_number(value):
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run, without an incomplete last line, which a running or killed process leaves.

    Raises ArchlabError naming the line for any other line that is not a record.
    """
    return read_log(folder / NAME)


def _line(record: Mapping[str, float]) -> str:
    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
