"""Tasks of lm-eval run on a model of archlab."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError
from archlab.inference.harness.figures import figures_of
from archlab.inference.harness.tasks import Loaded
from archlab.inference.suite import Estimate, Setting, SuiteProgress, SuiteRequest
from archlab.inference.text_model import TextModel

_BATCH = 8


def require_lm_eval(suite: str) -> None:
    """Raise ArchlabError unless lm-eval is installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise ArchlabError(f"the suite {suite} needs lm-eval: pip install 'archlab[eval]'") from error


class Harness:
    """A model that lm-eval measures, with the options of a request."""

    def __init__(
        self, model: nn.Module, experiment: Experiment, request: SuiteRequest, progress: SuiteProgress
    ) -> None:
        from archlab.inference.harness.language_model import ArchlabLM

        self.request = request
        self._examples, self._versions = dict[str, object](), dict[str, object]()
        self.model = ArchlabLM(
            TextModel(experiment, model),
            max_length=request.max_context,
            whole_documents=request.whole_documents,
            batch_size=request.batch_size or _BATCH,
            progress=progress,
        )

    def run(self, loaded: Loaded) -> Mapping[str, Estimate]:
        """Return the figures of tasks."""
        from lm_eval.evaluator import evaluate

        found: Any = evaluate(
            lm=self.model, task_dict=loaded, limit=self.request.limit, bootstrap_iters=0, log_samples=True
        )
        self._examples |= {name: found["n-shot"][name] for name in loaded["tasks"]}
        self._versions |= {name: found["versions"][name] for name in loaded["tasks"]}
        return dict(figures_of(found, loaded["tasks"]))

    def settings(self) -> dict[str, Setting]:
        """Return the settings that the results depend on beside the tasks."""
        lm = self.model
        cut = "none: the state is carried over whole documents" if lm.whole_documents else f"{lm.max_length:,} tokens"
        return {
            "lm_eval": version("lm_eval"),
            "longest_text": cut,
            "items_of_a_task": "all" if self.request.limit is None else f"the first {self.request.limit:,}",
            "examples_before_a_question": _each(self._examples),
            "versions_of_tasks": _each(self._versions),
            "batch_size": lm.batch_size,
            "precision": lm.precision,
            "first_token": lm.prefix_token_id,
        }

    def notes(self) -> list[str]:
        """Return notes for comparing the results with others."""
        notes = list[str]()
        if self.request.whole_documents:
            notes.append(
                "Texts were read whole, the state carried from the first token to the last. Other harnesses cut them "
                "and start over, so that their perplexities are not comparable with these."
            )
        if self.request.limit is not None:
            notes.append(f"Of each task the first {self.request.limit:,} items only.")
        return notes


def _each(values: Mapping[str, object]) -> str:
    """Return values by name, or one that is that of all."""
    every = {str(value) for value in values.values()}
    return every.pop() if len(every) == 1 else ", ".join(f"{name} {value}" for name, value in values.items())
