"""Metrics of a run: metrics.jsonl, one JSON object per line, and TensorBoard event files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from archlab.errors import ArchlabError
from archlab.storage.files import write_text

_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends records with a `step` to the log; a resumed log first drops the records after `resume_step`.

    `resume_step=None` starts a new log. NaN and infinity are written as null, which JSON has no number for.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, resume_step: int | None) -> None:
        # Records after the checkpoint are written again when their steps are made again.
        kept = [] if resume_step is None else [r for r in read(folder) if r["step"] <= resume_step]
        first_step = 0 if resume_step is None else resume_step + 1
        self._board = _summary_writer(folder / "tensorboard", first_step) if tensorboard else None
        write_text(folder / _NAME, "".join(_line(record) for record in kept))
        self._file = (folder / _NAME).open("a", encoding="utf-8")

    def append(self, record: Mapping[str, float]) -> None:
        """Write one record and flush it."""
        self._file.write(_line(record))
        self._file.flush()
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
    file = folder / _NAME
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]  # the last piece is empty, or a line without its end
    return [_record(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        int(record["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise ArchlabError(f"{place}: not a record of metrics") from error
    return record


def _line(record: Mapping[str, float]) -> str:
    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _summary_writer(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ArchlabError("TensorBoard is missing: pip install tensorboard, or set train.tensorboard=false") from error
    return SummaryWriter(folder, purge_step=first_step)
