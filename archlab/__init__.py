"""archlab: declare, search, train and export sequence-model architectures.

The verbs, one function each:

    experiment = archlab.load("megalodon_tiny", ["train.steps=100"])
    run = archlab.train(experiment, out="runs/a", callbacks=[archlab.ProgressBar()])
    print(archlab.evaluate(run.folder, split="validation").metrics)
    model = archlab.load_model(run.folder)

An experiment is a name that comes with archlab, the path of a YAML file, the same data as a mapping, or an
`Experiment`. Errors that a user can correct are `ArchlabError`s whose message is one line.

A plugin's author needs `register`, `Param`, `TensorPlan`, `slot`, `slots`, `Factory`, the types of knobs (`Count`,
`Width`, ...), the domains of a search (`choice`, `interval`), `Recurrent`, `State`, `StateScope` and `UpdateRule`; the
operations are in `archlab.ops`, readers of data files in `archlab.data`, conversions of other libraries' models in
`archlab.interop`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archlab import interop
    from archlab.api import (
        check,
        compare,
        evaluate,
        evaluate_suite,
        export,
        fit,
        generate,
        generate_batch,
        generate_tokens,
        import_checkpoint,
        load,
        load_model,
        migrate,
        plan,
        prepare,
        prepare_corpus,
        report,
        run_ladder,
        search,
        show,
        train,
        watch,
    )
    from archlab.cli.ladder_progress import LadderProgressBar
    from archlab.cli.progress import ProgressBar
    from archlab.cli.search_progress import SearchProgressBar
    from archlab.config.domains import (
        LARGEST,
        Beta,
        Count,
        Domain,
        Fraction,
        Heads,
        Index,
        NonNegative,
        Positive,
        Range,
        Width,
        choice,
        interval,
    )
    from archlab.config.experiment import Experiment
    from archlab.config.param_roles import Param
    from archlab.config.registry import Factory, register, slot, slots
    from archlab.config.spec import Spec
    from archlab.config.tensor_plan import TensorPlan
    from archlab.config.text_source import TextSource
    from archlab.config.train_config import TrainConfig
    from archlab.data.prepared import PreparedCorpus
    from archlab.data.task import Task
    from archlab.errors import ArchlabError, ConfigError, MachineError, TrainingError, did_you_mean, one_line
    from archlab.inference.evaluate import EvalResult
    from archlab.inference.prompts import GeneratedToken, Generation, Prompt
    from archlab.inference.suite import Curve, Estimate, SuiteProgress, SuiteRequest, SuiteResult
    from archlab.modeling.backbone import Backbone, is_causal
    from archlab.modeling.cost import Cost
    from archlab.modeling.optimizer import AdamSettings, TrainedParam, UpdateRule
    from archlab.modeling.state import (
        AUXILIARY_LOSS,
        RESERVED,
        UPDATE_SUM,
        Recurrent,
        State,
        StateScope,
        call_name,
        find_training_sum,
        init_state,
        max_context,
        reserve_state,
    )
    from archlab.planning.fit import Fit
    from archlab.planning.losses import LossPoint
    from archlab.planning.plan import Plan
    from archlab.reporting.compared_model import ComparedModel
    from archlab.reporting.differences import Difference
    from archlab.reporting.model_comparison import ModelComparison
    from archlab.searching.ladder.callbacks import LadderCallback
    from archlab.searching.ladder.run import LadderResult
    from archlab.searching.ladder.summary import LadderSummary
    from archlab.searching.results.summary import BaselineSummary, SearchSummary, TrialSummary
    from archlab.searching.run import SearchResult
    from archlab.searching.trials.callbacks import SearchCallback
    from archlab.testing import CheckResult
    from archlab.training.callbacks import Callback
    from archlab.training.progress import Progress
    from archlab.training.trainer import TrainResult

__version__ = "0.1.0"

# The module of each public name, imported when the name is first used: `import archlab` does not wait for torch. No
# subpackage bears a public function's name, whose place it would take as soon as it is imported.
_MODULES = {
    "archlab.api": "check compare evaluate evaluate_suite export fit generate generate_batch generate_tokens "
    "import_checkpoint load load_model migrate plan prepare prepare_corpus report run_ladder search show train watch",
    "archlab.cli.ladder_progress": "LadderProgressBar",
    "archlab.cli.progress": "ProgressBar",
    "archlab.cli.search_progress": "SearchProgressBar",
    "archlab.config.domains": (
        "LARGEST Beta Count Domain Fraction Heads Index NonNegative Positive Range Width choice interval"
    ),
    "archlab.config.experiment": "Experiment",
    "archlab.config.param_roles": "Param",
    "archlab.config.registry": "Factory register slot slots",
    "archlab.config.spec": "Spec",
    "archlab.config.tensor_plan": "TensorPlan",
    "archlab.config.text_source": "TextSource",
    "archlab.config.train_config": "TrainConfig",
    "archlab.data.prepared": "PreparedCorpus",
    "archlab.data.task": "Task",
    "archlab.errors": "ArchlabError ConfigError MachineError TrainingError did_you_mean one_line",
    "archlab.inference.evaluate": "EvalResult",
    "archlab.inference.prompts": "GeneratedToken Generation Prompt",
    "archlab.inference.suite": "Curve Estimate SuiteProgress SuiteRequest SuiteResult",
    "archlab.modeling.backbone": "Backbone is_causal",
    "archlab.modeling.cost": "Cost",
    "archlab.modeling.optimizer": "AdamSettings TrainedParam UpdateRule",
    "archlab.modeling.state": (
        "AUXILIARY_LOSS RESERVED UPDATE_SUM Recurrent State StateScope call_name find_training_sum init_state "
        "max_context reserve_state"
    ),
    "archlab.planning.fit": "Fit",
    "archlab.planning.losses": "LossPoint",
    "archlab.planning.plan": "Plan",
    "archlab.reporting.compared_model": "ComparedModel",
    "archlab.reporting.differences": "Difference",
    "archlab.reporting.model_comparison": "ModelComparison",
    "archlab.searching.trials.callbacks": "SearchCallback",
    "archlab.searching.ladder.callbacks": "LadderCallback",
    "archlab.searching.ladder.run": "LadderResult",
    "archlab.searching.ladder.summary": "LadderSummary",
    "archlab.searching.run": "SearchResult",
    "archlab.searching.results.summary": "BaselineSummary SearchSummary TrialSummary",
    "archlab.testing": "CheckResult",
    "archlab.training.callbacks": "Callback",
    "archlab.training.progress": "Progress",
    "archlab.training.trainer": "TrainResult",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "AUXILIARY_LOSS",
    "LARGEST",
    "RESERVED",
    "UPDATE_SUM",
    "AdamSettings",
    "ArchlabError",
    "Backbone",
    "BaselineSummary",
    "Beta",
    "Callback",
    "CheckResult",
    "ComparedModel",
    "ConfigError",
    "Cost",
    "Count",
    "Curve",
    "Difference",
    "Domain",
    "Estimate",
    "EvalResult",
    "Experiment",
    "Factory",
    "Fit",
    "Fraction",
    "GeneratedToken",
    "Generation",
    "Heads",
    "Index",
    "LadderCallback",
    "LadderProgressBar",
    "LadderResult",
    "LadderSummary",
    "LossPoint",
    "MachineError",
    "ModelComparison",
    "NonNegative",
    "Param",
    "Plan",
    "Positive",
    "PreparedCorpus",
    "Progress",
    "ProgressBar",
    "Prompt",
    "Range",
    "Recurrent",
    "SearchCallback",
    "SearchProgressBar",
    "SearchResult",
    "SearchSummary",
    "Spec",
    "State",
    "StateScope",
    "SuiteProgress",
    "SuiteRequest",
    "SuiteResult",
    "Task",
    "TensorPlan",
    "TextSource",
    "TrainConfig",
    "TrainResult",
    "TrainedParam",
    "TrainingError",
    "TrialSummary",
    "UpdateRule",
    "Width",
    "call_name",
    "check",
    "choice",
    "compare",
    "did_you_mean",
    "evaluate",
    "evaluate_suite",
    "export",
    "find_training_sum",
    "fit",
    "generate",
    "generate_batch",
    "generate_tokens",
    "import_checkpoint",
    "init_state",
    "interop",
    "interval",
    "is_causal",
    "load",
    "load_model",
    "max_context",
    "migrate",
    "one_line",
    "plan",
    "prepare",
    "prepare_corpus",
    "register",
    "report",
    "reserve_state",
    "run_ladder",
    "search",
    "show",
    "slot",
    "slots",
    "train",
    "watch",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name == "interop":
        return importlib.import_module("archlab.interop")
    if name not in _HOMES:
        raise AttributeError(f"module 'archlab' has no attribute {name!r}")
    # Kept in the module, so that this function is called once for each name.
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, those that are not imported yet among them."""
    return sorted({*globals(), *__all__})
