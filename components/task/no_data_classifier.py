"""The task of a classifier that was imported without its data."""

from __future__ import annotations

from archlab import Count, register
from archlab.data.task import Task

from .no_data import refuse_data


@register("task", "no_data_classifier")
class NoDataClassifier(Task):
    """Classes without samples: the task of a classifier that was imported from another library.

    Raises ArchlabError if data are requested, as training and evaluation do.

    Args:
        num_outputs: Number of classes.
    """

    per_sample = True
    check = refuse_data
    batch = refuse_data
    eval_batches = refuse_data

    def __init__(self, *, num_outputs: Count) -> None:
        self.num_classes = num_outputs

    @property
    def num_outputs(self) -> int:
        """The number of classes."""
        return self.num_classes
