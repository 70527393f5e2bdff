"""The public face: one typed function for each verb, over an experiment's name, file, mapping or object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from archlab.config import experiment as experiments
from archlab.config.experiment import Experiment, Yaml, parse_override
from archlab.errors import ArchlabError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archlab.inference.evaluate import EvalResult
    from archlab.modeling.cost import Cost
    from archlab.searching.callbacks import SearchCallback
    from archlab.searching.run import SearchResult
    from archlab.testing import CheckResult
    from archlab.training.callbacks import Callback
    from archlab.training.trainer import TrainResult

StrPath: TypeAlias = str | PathLike[str]
ExperimentLike: TypeAlias = StrPath | Mapping[str, Yaml] | Experiment


def load(experiment: ExperimentLike, overrides: Sequence[str] = ()) -> Experiment:
    """Return a checked experiment.

    `experiment` is the name of one that comes with archlab, the path of a YAML file, or the same data as a mapping;
    `overrides` are strings such as `"train.lr=1e-3"`. Raises ConfigError naming file, YAML path and value.
    """
    if not isinstance(experiment, Experiment):
        return experiments.load(experiment, overrides)
    return experiments.load(experiment.resolved, overrides) if overrides else experiment


def show(experiment: ExperimentLike, overrides: Sequence[str] = ()) -> Cost:
    """Return what an experiment costs (parameters, FLOPs, memory), counted without allocating it."""
    loaded = load(experiment, overrides)

    from archlab.modeling.cost import estimate_cost

    return estimate_cost(loaded)


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

    `out` is the run's directory, runs/NAME by default. `resume` continues exactly where the last checkpoint ended,
    `force` overwrites an earlier run. Raises ArchlabError where the directory holds another run, where the model does
    not fit in memory, or where the loss is no longer finite.
    """
    loaded = load(experiment, overrides)

    from archlab.training.trainer import train as run

    return run(loaded, Path(out or Path("runs") / loaded.name), resume=resume, force=force, callbacks=callbacks)


def search(
    space: StrPath | Mapping[str, Yaml],
    overrides: Sequence[str] = (),
    *,
    out: StrPath | None = None,
    trials: int | None = None,
    force: bool = False,
    callbacks: Sequence[SearchCallback] = (),
) -> SearchResult:
    """Search a space of architectures and return the best trial and a summary.

    `out` is the search's directory, runs/NAME by default; calling again with the same directory resumes the search.
    `trials` replaces the number of trials that the space names. Raises ArchlabError where the directory holds another
    search.
    """
    from archlab.searching.run import search as run
    from archlab.searching.space import load_space

    loaded = load_space(space, overrides)
    return run(loaded, Path(out or Path("runs") / loaded.name), trials=trials, force=force, callbacks=callbacks)


def evaluate(
    folder: StrPath, overrides: Sequence[str] = (), *, split: str = "test", max_tokens: int | None = None
) -> EvalResult:
    """Return the metrics of a trained model on a split of its task.

    `overrides` may name another task, context or batch size, but not another model. Raises ArchlabError for a
    directory without a trained model.
    """
    from archlab.inference.evaluate import eval_options
    from archlab.inference.evaluate import evaluate as run
    from archlab.modeling.build import device_of, validate
    from archlab.runtime.mixed_precision import resolve_precision
    from archlab.storage.trained_model import load_trained

    experiment, model = load_trained(Path(folder), overrides=overrides)
    validate(experiment)
    options = eval_options(experiment.train)
    options["precision"] = resolve_precision(options["precision"], device_of(model))
    return run(model, experiment.task.factory()(), split, max_tokens=max_tokens, **options)


def generate(
    folder: StrPath,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    compile: bool | None = None,
) -> Iterator[str]:
    """Yield pieces of text that continue a prompt; the first call to the iterator reads the prompt.

    `compile` defaults to compiling from 10,000 new tokens on. Raises ArchlabError at once for a sampling setting that
    cannot be used, and where prompt and new tokens exceed the context that the model keeps.
    """
    from archlab.inference.generate import generate as sample
    from archlab.modeling.state import max_context
    from archlab.storage.trained_model import load_trained

    experiment, model = load_trained(Path(folder))
    task = experiment.task.factory()()
    tokens, limit = task.encode(prompt), max_context(model)
    if limit is not None and len(tokens) + max_new_tokens > limit:
        raise ArchlabError(
            f"a prompt of {len(tokens)} tokens and {max_new_tokens} new ones are more than the {limit} "
            "that the model's full attention keeps; ask for fewer with --tokens"
        )
    new = sample(
        model,
        tokens,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        compile=compile,
    )
    return task.decode_stream(new)


def export(folder: StrPath, out: StrPath, *, force: bool = False) -> Path:
    """Write a trained model as a directory that needs torch and safetensors alone; return the directory."""
    from archlab.interop.standalone.export import export as write

    return write(Path(folder), Path(out), force=force)


def import_checkpoint(directory: StrPath, out: StrPath, *, force: bool = False) -> Path:
    """Convert a checkpoint directory of the transformers library to one of archlab's; return the new directory."""
    from archlab.interop import import_checkpoint as convert

    return convert(Path(directory), Path(out), force=force)


def report(folder: StrPath) -> Path:
    """Write report.html of a search or a run, readable offline; return its path."""
    from archlab.reporting.report import report as write

    return write(Path(folder))


def migrate(folder: StrPath) -> list[str]:
    """Rewrite a run, a search or a checkpoint of an earlier version in the present format; return each change.

    Returns nothing where there is nothing to change. Raises ArchlabError for another directory, and a damaged one.
    """
    from archlab.storage.migrate import migrate as rewrite

    return rewrite(Path(folder))


def check(kind: str, name: str, knobs: Sequence[str] = (), *, plugin: StrPath | None = None) -> Iterator[CheckResult]:
    """Run the conformance suite on a component in a small model, and yield the result of each check.

    `knobs` are strings such as `"num_heads=2"`; `plugin` is the Python file that registers the component.
    Raises ConfigError where there is no such component, or the knobs give no model.
    """
    from archlab.config.registry import load_plugin
    from archlab.testing import checks

    if plugin is not None:
        load_plugin(str(Path(plugin).resolve()), Path(), "--plugin")
    return (case.result() for case in checks(kind, name, **dict(map(parse_override, knobs))))


def load_model(folder: StrPath, device: str | torch.device = "cpu") -> nn.Module:
    """Return the trained model of a checkpoint, a run or a search, in evaluation mode.

    `logits, state = model(tokens)` with tokens [B, T] int64; passing the state back continues the stream.
    Raises ArchlabError for a directory without a trained model, or one that is damaged.
    """
    from archlab.storage.trained_model import load_trained

    _, model = load_trained(Path(folder), device)
    return model
