"""Tasks of EleutherAI's lm-eval, by their names."""

from __future__ import annotations

from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError
from archlab.inference.harness.run import Harness, require_lm_eval
from archlab.inference.harness.tasks import TaskCatalog, quiet_and_reachable
from archlab.inference.suite import Estimate, SuiteProgress, SuiteRequest, SuiteResult

_TAKEN = ("max_context", "task_files", "limit", "num_fewshot", "whole_documents", "batch_size")


def run_lm_eval(
    model: nn.Module, experiment: Experiment, request: SuiteRequest, progress: SuiteProgress
) -> SuiteResult:
    """Return the figures of tasks, groups and tags of lm-eval, each with its interval.

    Raises ArchlabError if no task is named, for an unknown task, for one whose data is not available, and for a model
    that is not of text.
    """
    request.require_only("lm-eval", "tasks", *_TAKEN)
    require_lm_eval("lm-eval")
    if not request.tasks:
        raise ArchlabError("the suite lm-eval needs --tasks, such as --tasks piqa,arc_easy")
    harness = Harness(model, experiment, request, progress)
    with quiet_and_reachable():
        progress("reading the names of tasks", 0, None)
        catalog = TaskCatalog(request.task_files)
        figures = dict[str, Estimate]()
        for loaded in [catalog.load(name, request.num_fewshot) for name in request.tasks]:
            figures |= harness.run(loaded)
    settings = {"tasks": ", ".join(request.tasks), **harness.settings()}
    return SuiteResult("lm-eval", settings, harness.model.num_tokens, figures=figures, notes=harness.notes())


SUITE = run_lm_eval
