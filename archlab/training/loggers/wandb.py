"""Weights & Biases: its own environment variables say where to and as whom, which archlab neither reads nor writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from archlab.config.experiment import Experiment
from archlab.errors import one_line
from archlab.training.callbacks import Callback
from archlab.training.run_loggers import LoggedRun, is_failing, plain_config

_log = logging.getLogger(__name__)


class WandbLogger(Callback):
    """Logs to a run of Weights & Biases, offline without a login; a resumed run continues in the same one."""

    package, extra = "wandb", "wandb"

    def __init__(self, run: LoggedRun) -> None:
        self.logged, self.run = run, None  # type: LoggedRun, Any

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Open the run, and log the experiment's configuration."""
        import wandb

        options: dict[str, Any] = {
            "name": self.logged.folder.resolve().name,
            "id": self.logged.id,
            "resume": "allow",
            "config": plain_config(experiment),
            # It would copy the terminal's output, line by line of a bar that is redrawn all the time.
            "settings": wandb.Settings(console="off"),
            **({} if "WANDB_PROJECT" in os.environ else {"project": "archlab"}),
        }
        try:
            self.run = wandb.init(**options)
        except Exception as error:
            _log.warning("wandb: %s; the run is logged offline, for `wandb sync`", one_line(error))
            self.run = wandb.init(**options, mode="offline")
        # Its own steps may not go back, as they do where a run continues from a checkpoint.
        self.run.define_metric("*", step_metric="step")

    def on_step(self, record: Mapping[str, float]) -> None:
        """Log an update that is due."""
        if self.run is not None and self.logged.is_due(record):
            self.run.log(dict(record))

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Log an evaluation."""
        if self.run is not None:
            self.run.log(dict(record))

    def on_end(self) -> None:
        """Close the run."""
        if self.run is not None:
            self.run.finish(exit_code=int(is_failing()))


LOGGER = WandbLogger
