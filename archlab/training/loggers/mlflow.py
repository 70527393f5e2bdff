"""MLflow: its own environment variables say where to and as whom, which archlab neither reads nor writes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from archlab.config.experiment import Experiment
from archlab.training.callbacks import Callback
from archlab.training.run_loggers import LoggedRun, is_failing, plain_config

_TAG = "archlab.run"
_MOST_PARAMS = 100  # of one request
_LONGEST_PARAM = 500
# Its own are 7 and 120 s: a run would stall for minutes at each record while a server is away.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class MlflowLogger(Callback):
    """Logs to a run of MLflow; a resumed run continues in the same one."""

    package, extra = "mlflow", "mlflow"

    def __init__(self, run: LoggedRun) -> None:
        self.logged, self.mlflow = run, None  # type: LoggedRun, Any

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Open the run, and log the experiment's configuration."""
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        import mlflow

        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            mlflow.set_experiment("archlab")
        condition = f"tags.`{_TAG}` = '{self.logged.id}'"
        found = mlflow.search_runs(filter_string=condition, max_results=1, output_format="list")
        if found:
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=self.logged.folder.resolve().name, tags={_TAG: self.logged.id})
        self.mlflow = mlflow
        if not found:  # it refuses to change one
            self._log_params(plain_config(experiment))

    def _log_params(self, config: Mapping[str, Any]) -> None:
        params = iter(_flatten(config))
        while some := dict(islice(params, _MOST_PARAMS)):
            self.mlflow.log_params(some)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Log an update that is due."""
        if self.logged.is_due(record):
            self.on_eval(record)

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Log an evaluation."""
        if self.mlflow is not None:
            finite = {name: value for name, value in record.items() if name != "step" and math.isfinite(value)}
            self.mlflow.log_metrics(finite, step=int(record["step"]))

    def on_end(self) -> None:
        """Close the run."""
        if self.mlflow is not None:
            self.mlflow.end_run("FAILED" if is_failing() else "FINISHED")


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values below a value by path, without brackets, which MLflow's names may not have."""
    if isinstance(value, Mapping | list):
        for key, below in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flatten(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, str(value)[:_LONGEST_PARAM]


LOGGER = MlflowLogger
