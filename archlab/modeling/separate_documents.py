"""Whether a model can be trained on documents apart, each in a row of its own that is padded at its end."""

from __future__ import annotations

from torch import nn

from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.errors import ConfigError
from archlab.modeling.backbone import is_causal
from archlab.modeling.state import find_training_sum

PATH = "train.documents"


def require_separable(experiment: Experiment, model: nn.Module, task: Task) -> None:
    """Raise ConfigError unless documents that are asked for apart can be had, and padding changes nothing."""
    if experiment.train.documents == "joined":
        return
    if not getattr(task, "has_documents", False):  # a task need not derive from Task
        raise ConfigError(PATH, f"the task {experiment.task.name!r} has no documents to separate")
    if not is_causal(model):
        raise ConfigError(PATH, "the model sees later tokens, and so the padding behind a document")
    part = find_training_sum(model)
    if part is not None:
        problem = "sums a loss of its own, or counts, over all tokens, the padding behind a document included"
        raise ConfigError(PATH, f"{part} {problem}")
