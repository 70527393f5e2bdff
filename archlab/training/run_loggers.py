"""Loggers that a run names in `train.loggers`: callbacks found by name, which never end the run that they log.

Those that ship are modules of `archlab.training.loggers`; an installed package adds one by an entry point of the group
`archlab.loggers`: a callback's class, made with a `LoggedRun`, with the names of its package and of the extra that
installs it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError, ConfigError, did_you_mean, one_line, redact
from archlab.runtime.extensions import LOGGERS
from archlab.training.callbacks import Callback

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedRun:
    """A run that is logged: its directory, an id that it keeps when it is resumed, and which updates are logged."""

    folder: Path
    id: str
    log_every: int
    steps: int

    def is_due(self, record: Mapping[str, float]) -> bool:
        """Return whether an update is logged: those that metrics.jsonl has."""
        return record["step"] % self.log_every == 0 or record["step"] == self.steps


def require_loggers(names: Sequence[str]) -> None:
    """Raise ArchlabError for a logger that there is none of, or whose package is missing."""
    for index, name in enumerate(names):
        logger = LOGGERS.find(name)
        if logger is None:
            known = LOGGERS.names()
            raise ConfigError(f"train.loggers[{index}]", f"no logger {name!r}{did_you_mean(name, known)}")
        package, extra = getattr(logger, "package", None), getattr(logger, "extra", name)
        if package is not None and not _is_installed(package):
            install = f'pip install "archlab[{extra}]"'
            raise ArchlabError(f"train.loggers[{index}]: {name} needs the package {package}: {install}")


def _is_installed(package: str) -> bool:
    found = find_spec(package)
    # A directory of the same name, such as the one that wandb itself makes, is not a package.
    return found is not None and found.origin is not None


def make_loggers(experiment: Experiment, folder: Path, id: str) -> list[Callback]:
    """Return the loggers of a run."""
    train = experiment.train
    run = LoggedRun(folder, id, train.log_every, train.steps)
    return [_Guarded(name, LOGGERS.find(name)(run)) for name in train.loggers or ()]


def plain_config(experiment: Experiment) -> dict[str, Any]:
    """Return a resolved experiment as plain data, without the passwords of URLs."""
    plain: dict[str, Any] = _redact(experiment.resolved)
    return plain


def _redact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redact(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_redact(below) for below in value]
    return redact(value) if isinstance(value, str) else value


def is_failing() -> bool:
    """Store, for `on_end`, whether an exception ends the run."""
    return sys.exc_info()[0] is not None


class _Guarded(Callback):
    """A logger that is disabled once it has failed: metrics.jsonl has everything."""

    def __init__(self, name: str, logger: Callback) -> None:
        self.name, self.logger, self.works = name, logger, True

    def _tell(self, hook: Callable[..., None], *arguments: Any) -> None:
        if not self.works:
            return
        try:
            hook(*arguments)
        except Exception as error:
            self.works = False
            _log.warning("%s: %s; the run continues without it, and metrics.jsonl has all", self.name, one_line(error))

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Hand on."""
        self._tell(self.logger.on_start, experiment, step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Hand on."""
        self._tell(self.logger.on_step, record)

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Hand on."""
        self._tell(self.logger.on_eval, record)

    def on_end(self) -> None:
        """Hand on."""
        self._tell(self.logger.on_end)
