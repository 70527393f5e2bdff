"""One function for each verb of a user; the command line is a thin layer over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archlab.config import experiment as config
from archlab.errors import ArchlabError


def show(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return an experiment's name and costs, allocating nothing."""
    experiment = config.load(name, overrides)

    from archlab.modeling.cost import estimate_cost

    return {"name": experiment.name, **estimate_cost(experiment)}


def train(
    name: str,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    resume: bool = False,
    force: bool = False,
    callback: Any = None,
) -> Any:
    """Train an experiment in a folder, runs/NAME by default; return its Result."""
    experiment = config.load(name, overrides)

    from archlab.training.trainer import train as run

    return run(experiment, out or Path("runs") / experiment.name, resume=resume, force=force, callback=callback)


def evaluate(
    folder: Path, overrides: Sequence[str] = (), *, split: str = "test", max_tokens: int | None = None
) -> dict[str, float]:
    """Return what a trained model's task measures on a split, and speed; overrides may name another task or context."""
    from archlab.inference.evaluate import evaluate as measure
    from archlab.modeling.build import validate
    from archlab.storage.trained_model import load_trained

    experiment, model = load_trained(folder, overrides=overrides)
    validate(experiment)
    task, settings = experiment.task.factory()(), experiment.train
    sizes: dict[str, Any] = {"batch_size": settings.batch_size, "context": settings.context}
    return measure(model, task, split, max_tokens=max_tokens, **sizes)


def generate(folder: Path, prompt: str, *, max_new_tokens: int = 200, **sampling: Any) -> Any:
    """Yield pieces of text that continue a prompt."""
    from archlab.inference.generate import generate as sample
    from archlab.modeling.state import max_context
    from archlab.storage.trained_model import load_trained

    experiment, model = load_trained(folder)
    task = experiment.task.factory()()
    tokens, limit = task.encode(prompt), max_context(model)
    if limit is not None and len(tokens) + max_new_tokens > limit:
        raise ArchlabError(
            f"a prompt of {len(tokens)} tokens and {max_new_tokens} new ones are more than the {limit} "
            "that the model's full attention keeps; ask for fewer with --tokens"
        )
    pieces, decoder = sample(model, tokens, max_new_tokens=max_new_tokens, **sampling), task.decoder()
    return _text(pieces, decoder)


def _text(pieces: Any, decoder: Any) -> Any:
    for token in pieces:
        yield decoder(token)
    yield decoder.finish()


def search(
    name: str,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    trials: int | None = None,
    force: bool = False,
    callback: Any = None,
) -> Any:
    """Search a space in a folder, runs/NAME by default, going on with what is there; return its Outcome."""
    from archlab.searching.run import search as run

    folder = out or Path("runs") / Path(name).stem
    return run(name, folder, overrides=overrides, trials=trials, force=force, callback=callback)


def export(folder: Path, out: Path, *, force: bool = False) -> Path:
    """Write a trained model as a directory that needs torch and safetensors only; return it."""
    from archlab.interop.standalone.export import export as write
    from archlab.storage.trained_model import find_checkpoint

    return write(find_checkpoint(folder), out, force=force)


def import_checkpoint(directory: Path, out: Path, *, force: bool = False) -> Path:
    """Write a checkpoint directory of the transformers library as one of archlab's; return it."""
    from archlab.interop import import_checkpoint

    return import_checkpoint(directory, out, force=force)


def report(folder: Path) -> Path:
    """Write a search's or a run's report.html; return it."""
    from archlab.reporting.report import report as write

    return write(folder)


def check(kind: str, name: str, knobs: Sequence[str] = (), *, plugin: Path | None = None) -> Any:
    """Yield each promise that a component makes, with the problem where it is not kept, None where it is."""
    from archlab.config.registry import load_plugin
    from archlab.testing import checks

    if plugin is not None:
        load_plugin(str(plugin.resolve()), Path(), "--plugin")
    for promise in checks(kind, name, **dict(map(config.parse_override, knobs))):
        yield promise, promise.problem()


def bench(operation: str | None = None) -> Any:
    """Yield how fast an operation, or each, is on this machine, beside its plain form and the memory's limit."""
    from archlab.ops.benchmark import benchmark as measure

    return measure(operation)


def profile(name: str, overrides: Sequence[str] = ()) -> Any:
    """Return where the time of an update goes when an experiment is trained here."""
    experiment = config.load(name, overrides)

    from archlab.training.profiler import profile as measure

    return measure(experiment)


def kernels(operation: str | None = None) -> Any:
    """Yield what the Triton kernels of an operation, or of all, take of each GPU."""
    from archlab.ops.triton.report import compile_kernels as compile_

    return compile_(operation)


def list_components(kind: str | None = None) -> list[Any]:
    """Return the components that YAML can name, of one kind or all."""
    from archlab.config import registry
    from archlab.errors import ConfigError, did_you_mean

    if kind is not None and kind not in registry.kinds():
        raise ConfigError("", f"no kind {kind!r}{did_you_mean(kind, registry.kinds())}")
    return [c for c in registry.components() if kind in (None, c.kind)]
