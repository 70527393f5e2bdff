"""The evaluations of Megalodon's paper (arXiv:2404.08801), and long contexts beside them.

Table 1 are ten academic benchmarks, with the examples before each question that LLaMA2's evaluation has. Then follow
three data sets of SCROLLS, perplexity of texts, loss by context (figure 5), and RULER and BABILong, which are younger.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError
from archlab.inference.harness.run import Harness, require_lm_eval
from archlab.inference.harness.tasks import MissingDataError, TaskCatalog, quiet_and_reachable
from archlab.inference.suite import Curve, Estimate, SuiteProgress, SuiteRequest, SuiteResult
from archlab.inference.suites.context import loss_by_context

# Tasks of lm-eval, and the examples before each question.
_TASKS = {
    "mmlu": 5,
    "boolq": 0,
    "hellaswag": 0,
    "piqa": 0,
    "social_iqa": 0,
    "winogrande": 0,
    "arc_easy": 0,
    "arc_challenge": 0,
    "nq_open": 5,
    "triviaqa": 5,
    "scrolls_narrativeqa": 0,
    "scrolls_qasper": 0,
    "scrolls_qmsum": 0,
    "wikitext": 0,
    "ruler": 0,
    "babilong": 0,
}
_TEXTS = {
    "figure 5": "a long text: --text FILE",
    "PG19": "its test books, which lm-eval has not: --suite context --text FILE for each",
    "MT-Bench": "its 80 questions and a model that judges answers: --suite mt-bench --questions FILE",
}


def run_megalodon_paper(
    model: nn.Module, experiment: Experiment, request: SuiteRequest, progress: SuiteProgress
) -> SuiteResult:
    """Return the results of all parts whose data is available, and the requirements of the others.

    `text` is that of the loss by context. Raises ArchlabError for a model of something other than text.
    """
    request.require_only(
        "megalodon-paper", "text", "max_context", "task_files", "limit", "whole_documents", "batch_size"
    )
    require_lm_eval("megalodon-paper")
    harness, missing, figures = Harness(model, experiment, request, progress), dict[str, str](), dict[str, Estimate]()
    with quiet_and_reachable():
        progress("reading the names of tasks", 0, None)
        catalog = TaskCatalog(request.task_files)
        for name, num_fewshot in _TASKS.items():
            try:
                figures |= harness.run(catalog.load(name, num_fewshot))
            except MissingDataError as error:
                missing[name] = error.needs
    curves, tokens = _by_context(model, experiment, request, progress, missing)
    settings = {"tasks": ", ".join(name for name in _TASKS if name not in missing) or "none", **harness.settings()}
    tokens += harness.model.num_tokens
    return SuiteResult("megalodon-paper", settings, tokens, curves, figures, harness.notes(), missing)


def _by_context(
    model: nn.Module,
    experiment: Experiment,
    request: SuiteRequest,
    progress: SuiteProgress,
    missing: dict[str, str],
) -> tuple[Sequence[Curve], int]:
    """Return the curves of the suite context on a text, if there is one, and note a missing one."""
    missing |= {name: needs for name, needs in _TEXTS.items() if name != "figure 5" or request.text is None}
    if request.text is None:
        return (), 0
    try:
        asked = SuiteRequest(text=request.text, max_context=request.max_context)
        found = loss_by_context(model, experiment, asked, progress)
    except ArchlabError as error:
        missing["figure 5"] = str(error)
        return (), 0
    return found.curves, found.tokens


SUITE = run_megalodon_paper
