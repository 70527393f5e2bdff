"""Commands on trained models: export, eval, report, import, migrate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from archlab import api
from archlab.cli.console import make_console
from archlab.cli.options import FOLDER, FORCE, OVERRIDES, TRUST_PLUGINS, WRITTEN_FOLDER, NameOption
from archlab.reporting.format import format_metrics
from archlab.runtime.extensions import EXPORT_FORMATS, SUITES
from archlab.text import shell_path


@click.command()
@click.argument("folder", type=WRITTEN_FOLDER, metavar="DIRECTORY")
@click.option("--out", type=FOLDER, required=True, help="Write the export to this directory.")
@click.option(
    "--to",
    "to",
    cls=NameOption,
    names=EXPORT_FORMATS,
    multiple=True,
    metavar="FORMAT",
    help="Write this format.",
)
@click.option("--trial", type=click.IntRange(min=0), help="Export this trial of a search.")
@click.option("--top", type=click.IntRange(min=1), help="Export this many of the best trials of a search.")
@click.option("--pareto", is_flag=True, help="Export the trials of the Pareto front of a search.")
@click.option("--portable", is_flag=True, help="Compile pt2 for every processor with AVX2, not for this one.")
@FORCE
@TRUST_PLUGINS
def export(
    folder: Path,
    out: Path,
    to: tuple[str, ...],
    trial: int | None,
    top: int | None,
    pareto: bool,
    portable: bool,
    force: bool,
) -> None:
    """Write a trained model as a directory that works without archlab.

    DIRECTORY is a directory that archlab wrote: a run, a checkpoint, a search, a trial, an import. The default formats
    are standalone and transformers. Each is loaded in a process without archlab and compared with the model first.
    """
    if sum((trial is not None, top is not None, pareto)) > 1:
        raise click.UsageError("--trial, --top and --pareto choose trials in different ways; give one of them")
    names = [name for each in to for name in each.split(",") if name]
    options = {"portable": True} if portable else {}
    path = api.export(
        folder, out, to=names, trial=trial, top=top, pareto=pareto, force=force, options=options, tell=click.echo
    )
    click.echo(f"{path}: {', '.join(sorted(file.name for file in path.iterdir()))}")


@click.command("import")
@click.argument("directory", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Write the checkpoint to this directory.")
@click.option("--tokenizer", metavar="FILE", help="Take this tokenizer.json, or 'bytes'; the default is DIRECTORY's.")
@click.option("--no-special-tokens", is_flag=True, help="Do not add the tokenizer's own special tokens to texts.")
@FORCE
@TRUST_PLUGINS
def import_(directory: Path, out: Path, tokenizer: str | None, no_special_tokens: bool, force: bool) -> None:
    """Convert a checkpoint of the transformers library to one of archlab's.

    DIRECTORY holds config.json, *.safetensors and tokenizer.json; or it is an export of archlab's, as other tools have
    tuned and saved it.
    """
    from archlab.storage.model_tokens import read_tokens

    special_tokens = not no_special_tokens
    path = api.import_checkpoint(directory, out, tokenizer=tokenizer, special_tokens=special_tokens, force=force)
    click.echo(f"{path}: model.safetensors and experiment.yaml")
    tokens = read_tokens(path)
    if tokens is not None:
        click.echo(f"tokens  {tokens}")
    click.echo(f"next    archlab show {shell_path(path / 'experiment.yaml')}")


@click.command("eval")
@click.argument("folder", type=WRITTEN_FOLDER, metavar="DIRECTORY")
@OVERRIDES
@click.option(
    "--split",
    default="test",
    show_default=True,
    type=click.Choice(["train", "validation", "test"]),
    help="Evaluate on this split.",
)
@click.option(
    "--tokens", type=click.IntRange(min=1), help="Evaluate on this many tokens; the default is the whole split."
)
@click.option("--suite", cls=NameOption, names=SUITES, help="Measure by a suite.")
@click.option(
    "--text",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Measure a suite on all of this text, not on a split.",
)
@click.option("--max-context", type=click.IntRange(min=1), help="The longest context that a suite reads.")
@click.option("--tasks", multiple=True, metavar="NAME,...", help="Measure these tasks of lm-eval.")
@click.option("--task-files", type=FOLDER, help="Take tasks of lm-eval from the YAML files of this directory, too.")
@click.option("--limit", type=click.IntRange(min=1), help="Measure this many items of each task.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Put this many examples before each question.")
@click.option(
    "--whole-documents", is_flag=True, help="Do not truncate texts of lm-eval: carry the state over the whole text."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Read this many texts of lm-eval at a time.")
@click.option(
    "--questions", type=click.Path(path_type=Path, dir_okay=False), help="MT-Bench's question.jsonl, for mt-bench."
)
@click.option(
    "--out", type=FOLDER, help="The directory of the suite's results; of a run by default evaluations/SUITE in it."
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@FORCE
@TRUST_PLUGINS
def eval_(
    folder: Path,
    overrides: tuple[str, ...],
    split: str,
    tokens: int | None,
    suite: str | None,
    text: Path | None,
    max_context: int | None,
    tasks: tuple[str, ...],
    task_files: Path | None,
    limit: int | None,
    num_fewshot: int | None,
    whole_documents: bool,
    batch_size: int | None,
    questions: Path | None,
    out: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Evaluate a trained model on a split of its task, or of another task, or by a suite.

    DIRECTORY is a directory that archlab wrote: a run, a checkpoint, a search, a trial; with a suite also an export.
    PATH=VALUE sets a value by its path, such as task.path=... or train.context=...
    """
    of_suites = {
        "text": text,
        "max_context": max_context,
        "tasks": [name for each in tasks for name in each.split(",") if name],
        "task_files": task_files,
        "limit": limit,
        "num_fewshot": num_fewshot,
        "whole_documents": whole_documents,
        "batch_size": batch_size,
        "questions": questions,
    }
    if suite is not None:
        asked = {"split": split, "max_tokens": tokens, **of_suites}
        _evaluate_suite(folder, overrides, suite, out, force=force, as_json=as_json, asked=asked)
        return
    given = {**of_suites, "out": out, "force": force}
    if other := next((name for name, value in given.items() if value not in (None, False, [])), None):
        raise click.UsageError(f"--{other.replace('_', '-')} is of a --suite")

    from archlab.cli.task_bar import task_bar

    with task_bar() as bar:
        progress = partial(bar.show_task, f"evaluating on the {split} split")
        result = api.evaluate(folder, overrides, split=split, max_tokens=tokens, progress=progress)
    if as_json:
        click.echo(json.dumps({"split": split, **result.to_dict()}, indent=2))
        return
    click.echo(f"{split}: {format_metrics(result.metrics)}")
    click.echo(f"{result.tokens:,} targets at {result.tokens_per_s:,.0f} per second")


def _evaluate_suite(
    folder: Path,
    overrides: tuple[str, ...],
    suite: str,
    out: Path | None,
    *,
    force: bool,
    as_json: bool,
    asked: Mapping[str, Any],
) -> None:
    from archlab.cli.suite_tables import suite_tables
    from archlab.cli.task_bar import task_bar
    from archlab.reporting.evaluation import evaluation_dir

    place = out or evaluation_dir(folder, suite)
    with task_bar() as bar:
        result = api.evaluate_suite(folder, suite, overrides, out=place, force=force, progress=bar.show_task, **asked)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    make_console().print(suite_tables(result))
    click.echo(f"tokens   {result.tokens:,} read")
    if place is not None:
        click.echo(f"page     {place / 'index.html'}")


@click.command()
@click.argument("folder", type=WRITTEN_FOLDER, metavar="DIRECTORY")
@TRUST_PLUGINS
def report(folder: Path) -> None:
    """Write report.html of a search or a run.

    DIRECTORY is its directory, or a part of it such as best/ or final/.
    """
    click.echo(api.report(folder))


@click.command()
@click.argument("folder", type=WRITTEN_FOLDER, metavar="DIRECTORY")
@TRUST_PLUGINS
def migrate(folder: Path) -> None:
    """Rewrite a run, search or checkpoint of an earlier version.

    DIRECTORY is its directory. Former names are replaced in its YAML files and in its checkpoints.
    """
    changes = api.migrate(folder)
    click.echo("\n".join(changes) if changes else f"{folder}: nothing to do")


COMMANDS = (export, import_, eval_, report, migrate)
