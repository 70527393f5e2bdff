"""TensorBoard event files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archlab.errors import ArchlabError


def open_summary_writer(folder: Path, first_step: int) -> Any:
    """Open the event files of a run from a step on; raise ArchlabError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ArchlabError("TensorBoard is missing: pip install tensorboard, or set train.tensorboard=false") from error
    return SummaryWriter(folder, purge_step=first_step)
