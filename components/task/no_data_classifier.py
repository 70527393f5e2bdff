"""What a classifier was made for that came without its data."""

from __future__ import annotations

from archlab import Count, register
from archlab.data.task import Task

from .no_data import without_data


@register("task", "no_data_classifier")
class NoDataClassifier(Task):
    """Classes, and no samples of its own: what a classifier of another library brings along.

    Raises ArchlabError where data are asked for.
    """

    per_sample = True
    check = without_data
    batch = without_data
    eval_batches = without_data

    def __init__(self, *, num_outputs: Count) -> None:
        self.classes = num_outputs

    @property
    def num_outputs(self) -> int:
        """The number of classes."""
        return self.classes
