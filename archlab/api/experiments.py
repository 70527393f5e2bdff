"""Verbs on experiments: load, show, plan, prepare their data, train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archlab.api.inputs import ExperimentLike, StrPath
from archlab.config import experiment as experiments
from archlab.config.experiment import Experiment
from archlab.config.plugin_trust import plugin_policy
from archlab.errors import ArchlabError
from archlab.runtime.known_failures import explain_failures

if TYPE_CHECKING:
    from archlab.data.prepared import PreparedCorpus
    from archlab.data.task import Task
    from archlab.modeling.cost import Cost
    from archlab.planning.dry_run import TrainingDryRun
    from archlab.planning.plan import Plan
    from archlab.training.callbacks import Callback
    from archlab.training.trainer import TrainResult


def load(experiment: ExperimentLike, overrides: Sequence[str] = (), *, trust_plugins: bool = False) -> Experiment:
    """Load and check an experiment.

    `experiment` is the name of one that comes with archlab, the path of a YAML file, or the same data as a mapping;
    `overrides` are strings PATH=VALUE such as `"train.lr=1e-3"`. Raises ConfigError naming file, YAML path and value.

    Plugins that a run, a search or a checkpoint names are code that came with it: here and wherever one is read, they
    run if they ran here before, or with `trust_plugins`.

        experiment = archlab.load("megalodon_tiny", ["model.layers[0].mixer.ema=s4d"])
        experiment.train.lr, experiment.resolved["model"]
    """
    if not isinstance(experiment, Experiment):
        with plugin_policy(trust=trust_plugins):
            return experiments.load(experiment, overrides)
    return experiments.load(experiment.resolved, overrides) if overrides else experiment


def show(experiment: ExperimentLike, overrides: Sequence[str] = ()) -> Cost:
    """Count the cost of an experiment (parameters, FLOPs, memory) without allocating the model.

    Raises ConfigError if model, task and context do not fit, or the checkpoint that it would start from does not.

        archlab.show("megalodon_7b").params  # 7385817088
    """
    loaded = load(experiment, overrides)

    from archlab.modeling.cost import estimate_cost
    from archlab.training.start_from import check_start

    check_start(loaded)
    return estimate_cost(loaded)


def plan(
    experiment: ExperimentLike,
    overrides: Sequence[str] = (),
    *,
    device: str = "cpu",
    devices: int | None = None,
    tokens: float | None = None,
    trust_plugins: bool = False,
) -> Plan:
    """Plan the training of an experiment on devices of a kind: memory, time, days and layout, allocating nothing.

    `device` is a shipped name such as "h100", one of your own, or a YAML file. `devices` is by default the number of
    the experiment's `parallel:`, or 1; `tokens` by default that of its steps. Raises ConfigError for an unknown device,
    or where the layout does not divide the sequences of an update.

        archlab.plan("megalodon_7b", device="a100-80g", devices=256).days
    """
    loaded = load(experiment, overrides, trust_plugins=trust_plugins)
    if devices is not None and loaded.parallel and any(each.startswith("parallel") for each in overrides):
        loaded.parallel.layout(devices)  # both are asked for

    from archlab.planning.plan import plan as make

    return make(loaded, device=device, devices=devices, tokens=tokens)


@explain_failures
def dry_run_training(
    experiment: ExperimentLike,
    overrides: Sequence[str] = (),
    *,
    device: str | None = None,
    processes: int | None = None,
    trust_plugins: bool = False,
) -> TrainingDryRun:
    """Make an update of a training run in its layout without memory and without the other processes, and plan it.

    `processes` is by default the number of the experiment's `parallel:`; `device` is one that `archlab plan` knows, by
    default an A100 of 80 GB for several processes, else this machine's CPU. Raises ConfigError for a layout that does
    not fit.

        archlab.api.dry_run_training("megalodon_7b").tracked_bytes
    """
    from archlab.planning.dry_run import dry_run as make

    return make(load(experiment, overrides, trust_plugins=trust_plugins), device=device, processes=processes)


@explain_failures
def prepare(
    experiment: ExperimentLike, overrides: Sequence[str] = (), *, trust_plugins: bool = False
) -> list[PreparedCorpus]:
    """Make the tokens of an experiment's text in the user's cache, if they are not there; return them.

    Training does the same when it starts. Returns nothing for data that are read as they are, such as bytes.

        [corpus] = archlab.prepare("megalodon_tiny", ["task={type: text, path: books, tokenizer: tokenizer.json}"])
        corpus.length("train"), corpus.folder
    """
    loaded = load(experiment, overrides, trust_plugins=trust_plugins)
    task: Task = loaded.task.factory()()
    return list(task.prepare())


@explain_failures
def prepare_corpus(
    corpus: StrPath,
    out: StrPath,
    *,
    tokenizer: StrPath,
    vocab_size: int | None = None,
    special_tokens: bool = False,
    glob: str = "**/*",
    field: str = "text",
    eval_bytes: int | None = 2**19,
) -> PreparedCorpus:
    """Make the tokens of a file or directory of text in the directory `out`, for the task `prepared`; return them.

    `tokenizer` is the path of a tokenizer.json, "bytes", or "words" with a `vocab_size`. The same call continues a
    killed one. Raises ArchlabError for a directory that holds anything else.

        archlab.prepare_corpus("books", "corpora/books", tokenizer="tokenizer.json").length("train")
    """
    from archlab.data.prepared import prepare_text

    return prepare_text(
        Path(corpus),
        Path(out),
        str(tokenizer),
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        glob=glob,
        field=field,
        eval_bytes=eval_bytes,
    )


def corpus_dir(experiment: ExperimentLike, overrides: Sequence[str] = ()) -> Path:
    """Return the directory of the prepared corpus that an experiment names; raise ArchlabError if it names none."""
    loaded = load(experiment, overrides)
    task: Task = loaded.task.factory()()
    if task.prepared_dir is None:
        raise ArchlabError(
            f"{loaded.name}: its task, {loaded.task.name}, names no prepared corpus; say --out DIRECTORY"
        )
    return task.prepared_dir


@explain_failures
def train(
    experiment: ExperimentLike,
    overrides: Sequence[str] = (),
    *,
    out: StrPath | None = None,
    resume: bool = False,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train an experiment and return the run's directory and last metrics.

    `out` is the run's directory, runs/NAME by default. `resume` continues from the last checkpoint, with the same
    result as without the interruption; `force` overwrites an earlier run. `callbacks` see each step and evaluation.
    Raises ArchlabError if the directory holds another run or the model does not fit in memory, TrainingError if the
    loss is no longer finite.

        run = archlab.train("megalodon_tiny", ["train.steps=100"], out="runs/a", callbacks=[archlab.ProgressBar()])
        run.metrics["val_loss"], run.model_dir
    """
    loaded = load(experiment, overrides)

    from archlab.planning.this_device import peak_flops
    from archlab.training.trainer import train as run

    place = Path(out or Path("runs") / loaded.name)
    return run(loaded, place, resume=resume, force=force, callbacks=callbacks, peak_flops=peak_flops)
