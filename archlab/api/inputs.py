"""Arguments of the verbs: paths, and experiments in any of their forms."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TypeAlias

from archlab.config.experiment import Experiment, Yaml

StrPath: TypeAlias = str | PathLike[str]
ExperimentLike: TypeAlias = StrPath | Mapping[str, Yaml] | Experiment
