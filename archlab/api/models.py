"""Verbs on trained models and their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archlab.api.inputs import StrPath
from archlab.config.plugin_trust import plugin_policy
from archlab.runtime.known_failures import explain_failures

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archlab.inference.evaluate import EvalResult
    from archlab.inference.suite import SuiteResult
    from archlab.reporting.model_comparison import ModelComparison


@explain_failures
def evaluate(
    folder: StrPath,
    overrides: Sequence[str] = (),
    *,
    split: str = "test",
    max_tokens: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    trust_plugins: bool = False,
) -> EvalResult:
    """Evaluate a trained model on a split of its task.

    `folder` is a run, a search or a checkpoint. `overrides` may change task, context and batch size, but not the model.
    `max_tokens` limits the number of inputs read; `progress` is called with the targets done, and those in all if that
    is known. Raises ArchlabError for a directory without a trained model.

        archlab.evaluate("runs/a", split="validation").metrics["bpb"]
    """
    from archlab.inference.evaluate import eval_options
    from archlab.inference.evaluate import evaluate as run
    from archlab.modeling.build import device_of, validate
    from archlab.runtime.mixed_precision import resolve_precision
    from archlab.storage.trained_model import load_trained

    with plugin_policy(trust=trust_plugins):
        experiment, model = load_trained(Path(folder), overrides=overrides)
    validate(experiment)
    options = eval_options(experiment.train)
    options["precision"] = resolve_precision(options["precision"], device_of(model))
    return run(model, experiment.task.factory()(), split, max_tokens=max_tokens, progress=progress, **options)


@explain_failures
def evaluate_suite(
    folder: StrPath,
    suite: str,
    overrides: Sequence[str] = (),
    *,
    split: str = "test",
    text: StrPath | None = None,
    max_tokens: int | None = None,
    max_context: int | None = None,
    tasks: Sequence[str] = (),
    task_files: StrPath | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    whole_documents: bool = False,
    batch_size: int | None = None,
    questions: StrPath | None = None,
    out: StrPath | None = None,
    force: bool = False,
    progress: Callable[[str, int, int | None], None] | None = None,
    trust_plugins: bool = False,
) -> SuiteResult:
    """Measure a trained model by a suite; docs/evaluation.md describes each suite and its options.

    `folder` and `overrides` are those of `evaluate`; it may be an export, too. `text` is a file in place of a split,
    `max_context` the longest context. `tasks`, at most `limit` items of each, with `num_fewshot` examples before each
    question, and with `whole_documents` read without a cut, are of the suite lm-eval, `task_files` a directory with
    more of them; `questions` is the file of the suite mt-bench. A run's results are written to its evaluations/SUITE,
    those of another model to `out`, if that is given; `force` overwrites earlier ones. `progress` is called with a
    description, the amount done and the total. Raises ArchlabError for an unknown suite, and
    for a model or data that it cannot measure.

        archlab.evaluate_suite("runs/a", "context", text="book.txt").curves[0].points
    """
    from archlab.inference.suite import SuiteRequest, find_suite
    from archlab.inference.window_source import read_text
    from archlab.modeling.build import validate
    from archlab.reporting.evaluation import evaluation_dir, require_evaluation_target, write_evaluation
    from archlab.storage.trained_model import load_trained_or_export

    measure, place = find_suite(suite), Path(out) if out is not None else evaluation_dir(Path(folder), suite)
    if place is not None:
        require_evaluation_target(place, force=force)
    with plugin_policy(trust=trust_plugins):
        experiment, model = load_trained_or_export(Path(folder), overrides=overrides)
    validate(experiment)
    words = None if text is None else read_text(Path(text))
    request = SuiteRequest(
        split,
        words,
        max_tokens,
        max_context,
        tuple(tasks),
        None if task_files is None else Path(task_files),
        limit,
        num_fewshot,
        whole_documents,
        batch_size,
        None if questions is None else Path(questions),
    )
    result = measure(model, experiment, request, progress or (lambda what, done, total: None))
    if place is not None:
        write_evaluation(place, result, Path(folder).resolve().name, force=force)
    return result


@explain_failures
def export(
    folder: StrPath,
    out: StrPath,
    *,
    to: Sequence[str] = (),
    trial: int | None = None,
    top: int | None = None,
    pareto: bool = False,
    force: bool = False,
    options: Mapping[str, object] | None = None,
    tell: Callable[[str], None] | None = None,
    trust_plugins: bool = False,
) -> Path:
    """Export a trained model to a directory that works without archlab, and prove that it does; return `out`.

    `to` are the names of formats, by default standalone and transformers, `options` their options, such as `portable`
    of pt2. Of a search `trial` takes one by its number, `top` the best so many, `pareto` those of the Pareto front;
    several go to directories of their own below `out`. `tell` is called with a line about each action. Raises
    ArchlabError for a part that a format does not have, and an export that gives other logits than the model, which is
    not left behind.

        archlab.export("runs/a", "out/a", to=["transformers"])
    """
    from archlab.interop.exporting.export import export as write

    chosen: dict[Path, tuple[Path, Mapping[str, object]]] = {Path(out): (Path(folder), {})}
    with plugin_policy(trust=trust_plugins):
        if trial is not None or top is not None or pareto:
            from archlab.searching.results.chosen_trials import choose_trials

            trials = choose_trials(Path(folder), trial=trial, top=top, pareto=pareto)
            chosen = {Path(out, f"trial_{each.number:04d}"): (each.folder, each.origin) for each in trials}
            if trial is not None:
                chosen = {Path(out): (trials[0].folder, trials[0].origin)}
        for place, (source, origin) in chosen.items():
            if tell is not None and len(chosen) > 1:
                tell(f"{source}: to {place}")
            write(source, place, to, force=force, options=options, origin=origin, tell=tell or (lambda line: None))
    return Path(out)


@explain_failures
def import_checkpoint(
    directory: StrPath,
    out: StrPath,
    *,
    tokenizer: str | None = None,
    special_tokens: bool = True,
    force: bool = False,
    trust_plugins: bool = False,
) -> Path:
    """Convert a transformers checkpoint, or an export of archlab's that was tuned, to a checkpoint; return `out`.

    `tokenizer` is "bytes" or the path of a tokenizer.json; by default the directory's own, if it has one.
    `special_tokens` adds to a text what the tokenizer does of its own accord, such as a BOS token.
    """
    from archlab.interop import import_checkpoint as convert

    with plugin_policy(trust=trust_plugins):
        return convert(Path(directory), Path(out), tokenizer=tokenizer, special_tokens=special_tokens, force=force)


@explain_failures
def report(folder: StrPath, *, trust_plugins: bool = False) -> Path:
    """Write report.html of a search or a run, readable offline, or of the one that a directory is a part of.

    Returns its path.
    """
    from archlab.reporting.report import report as write
    from archlab.storage.find_model import owner_of

    with plugin_policy(trust=trust_plugins):
        return write(owner_of(Path(folder)))


@explain_failures
def compare(
    *models: StrPath, out: StrPath | None = None, force: bool = False, trust_plugins: bool = False
) -> ModelComparison:
    """Compare models: their differences, costs, learning curves and results of suites.

    Each is a run or another directory that archlab wrote, the name of an experiment, or a YAML file. `out` gets a page
    and JSON; `force` overwrites earlier ones. Raises ArchlabError for anything else.

        archlab.compare("runs/a", "runs/b").differences
    """
    from archlab.reporting.model_comparison import KIND, compare_models, write_comparison
    from archlab.storage.targets import require_target

    if out is not None:
        require_target(Path(out), KIND, force=force)
    with plugin_policy(trust=trust_plugins):
        found = compare_models([os.fspath(each) for each in models])
    if out is not None:
        write_comparison(Path(out), found, force=force)
    return found


@explain_failures
def migrate(folder: StrPath, *, trust_plugins: bool = False) -> list[str]:
    """Rewrite a run, a search or a checkpoint of an earlier version in the present format; return each change.

    Returns nothing where there is nothing to change. Raises ArchlabError for another directory, and a damaged one.
    """
    from archlab.storage.migrate import migrate as rewrite

    with plugin_policy(trust=trust_plugins):
        return rewrite(Path(folder))


@explain_failures
def load_model(folder: StrPath, device: str | torch.device = "cpu", *, trust_plugins: bool = False) -> nn.Module:
    """Load the trained model of a run, a search or a checkpoint, in evaluation mode.

    Raises ArchlabError for a directory without a trained model, or a damaged one.

        model = archlab.load_model("runs/a")
        logits, state = model(tokens)  # [B, T] int64 -> [B, T, V]
        logits, state = model(more_tokens, state)  # continues the stream
    """
    from archlab.storage.trained_model import load_trained

    with plugin_policy(trust=trust_plugins):
        _, model = load_trained(Path(folder), device)
    return model
