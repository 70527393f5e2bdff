"""What a run measured: one JSON object a line in metrics.jsonl, and TensorBoard beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from archlab.errors import ArchlabError
from archlab.files import write_text

_NAME = "metrics.jsonl"
_NOT_LEARNED = ("step", "tokens", "tokens_per_s")


class MetricsLog:
    """Appends records, each with its `step`; a resumed log first forgets what came after `resume_step`.

    `resume_step=None` begins anew. Numbers that are not finite are written as null.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, resume_step: int | None) -> None:
        kept = [] if resume_step is None else [r for r in read(folder) if r["step"] <= resume_step]
        first_step = 0 if resume_step is None else resume_step + 1
        self._board = _summary_writer(folder / "tensorboard", first_step) if tensorboard else None
        write_text(folder / _NAME, "".join(_line(record) for record in kept))
        self._file = (folder / _NAME).open("a", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
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
    """Return the records of a run, without a last line that is not written to its end.

    Raises ArchlabError for any other line that is not a record, by its number.
    """
    file = folder / _NAME
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    return [_record(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]


def told(found: Mapping[str, float], prefix: str = "") -> str:
    """Return what was measured as a person reads it: the loss, then what the task measures beside it."""
    units = {"loss": "loss {:.4f} nats", "bpb": "{:.3f} bits per byte"}
    names = [name for name in found if name.startswith(prefix) and name not in _NOT_LEARNED]
    short = {name.removeprefix(prefix): found[name] for name in names}
    return ", ".join(units.get(name, f"{name} {{:.3f}}").format(value) for name, value in short.items())


def brief_validation(found: Mapping[str, float]) -> str:
    """Return the validation metrics for a line that has no room."""
    if "val_loss" not in found:
        return ""
    beside = {name.removeprefix("val_"): value for name, value in found.items() if name.startswith("val_")}
    units = {"bpb": "{:.3f} bits/byte"}
    rest = [units.get(name, f"{name} {{:.3f}}").format(value) for name, value in beside.items() if name != "loss"]
    return f"val {beside['loss']:.4f}" + (f" ({', '.join(rest)})" if rest else "")


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        int(record["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise ArchlabError(f"{place}: not a record of metrics") from error
    return record


def _line(record: Mapping[str, Any]) -> str:
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
