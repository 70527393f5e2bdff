"""A trace of some updates by torch's profiler, for chrome://tracing or ui.perfetto.dev, in the run's directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from archlab.config.experiment import Experiment
from archlab.config.profile_steps import ProfileSteps
from archlab.training.callbacks import Callback

FOLDER = "profile"


class Trace(Callback):
    """Traces the updates that `train.profile` names, of the first process."""

    def __init__(self, folder: Path, profile: ProfileSteps) -> None:
        self.folder, self.profile = folder / FOLDER, profile
        self.profiler: Any = None

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Begin, if the first update is traced."""
        self._begin_after(step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Begin after the update before, and end after the last."""
        step = int(record["step"])
        if self.profiler is not None and step == self.profile.last:
            self._write()
        self._begin_after(step)

    def on_end(self) -> None:
        """Drop a trace that the run's end has cut off."""
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

    def _begin_after(self, step: int) -> None:
        if step != self.profile.start - 1:
            return
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or Kineto logs each start and stop to stderr
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self.profiler = torch.profiler.profile(activities=activities, record_shapes=True)
        self.profiler.start()

    def _write(self) -> None:
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        name = f"updates_{self.profile.start}_to_{self.profile.last}"
        self.folder.mkdir(exist_ok=True)
        partial = self.folder / f".{name}.archlab-partial.json.gz"
        profiler.export_chrome_trace(str(partial))
        partial.replace(self.folder / f"{name}.json.gz")
