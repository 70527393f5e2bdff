"""The command line: commands, their options, and errors in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from archlab import __version__, api
from archlab.cli.boundary import Carried, run
from archlab.cli.completion import (
    complete_component,
    complete_experiment,
    complete_kind,
    complete_knob,
    complete_override,
    complete_space,
)
from archlab.cli.escaping import EscapingGroup, write_data
from archlab.cli.options import TRUST_PLUGINS
from archlab.cli.streams import can_print, decode_argument
from archlab.config import registry
from archlab.config.yaml_files import is_file_name
from archlab.config.yaml_writer import format_yaml
from archlab.errors import ArchlabError, did_you_mean
from archlab.reporting.format import format_metrics
from archlab.runtime.process import configure_process
from archlab.text import shell_path

FOLDER = click.Path(path_type=Path, file_okay=False)
PYTHON_FILE = click.Path(path_type=Path, dir_okay=False)
NAME = click.argument("name", shell_complete=complete_experiment)
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...", shell_complete=complete_override)
FORCE = click.option("--force", is_flag=True, help="Overwrite what archlab wrote to the directory, and nothing else.")


class SuggestingGroup(EscapingGroup):
    """A group whose error for an unknown command names the nearest one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command, or fail with the nearest one."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; keep click from handling what is raised."""
        try:
            return super().invoke(ctx)
        except (OSError, EOFError, KeyboardInterrupt) as error:
            raise Carried(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their whole first sentences, which click would cut to one line."""
        rows = [(name, self.commands[name].get_short_help_str(limit=1000)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="archlab")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Declare, search, train and export sequence-model architectures.

    NAME is an experiment or a search space that comes with archlab, or a path to a YAML file. Any value in
    it can be set by its path: train.lr=1e-3 'model.layers[0].mixer.ema=s4d'.

    To complete names and paths in bash, evaluate the output of _ARCHLAB_COMPLETE=bash_source archlab; zsh and fish
    have zsh_source and fish_source.
    """


def main() -> None:
    """Run the command line; exit with the status of its outcome, after one line for an error."""
    status = run(_run_command, debug="--debug" in sys.argv)
    if status:
        sys.exit(status)


def _run_command() -> None:
    configure_process()
    cli(standalone_mode=False)


def _console() -> Any:
    from archlab.cli.terminal import make_console

    return make_console()


@cli.command("list")
@click.argument("kind", required=False, shell_complete=complete_kind)
def list_(kind: str | None) -> None:
    """List experiments, search spaces and components.

    With KIND, list the components of that kind with their knobs: type, default, domain of a search, and meaning.
    """
    from archlab.cli.listing import components_table, experiments_table

    console = _console()
    if kind is None:
        console.print(experiments_table("experiments", "archlab show NAME"))
        console.print(experiments_table("search_spaces", "archlab search NAME"))
    console.print(components_table(registry.components(kind), detailed=kind is not None))


@cli.command()
@NAME
@OVERRIDES
@click.option("--json", "as_json", is_flag=True, help="Print the costs as JSON.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the resolved experiment as YAML.")
@TRUST_PLUGINS
def show(name: str, overrides: tuple[str, ...], as_json: bool, as_yaml: bool) -> None:
    """Print an experiment's modules with shapes, and its costs, without allocating it.

    NAME is an experiment or a YAML file; PATH=VALUE sets a value by its path.
    """
    from archlab.cli.terminal import foreign, paragraph

    experiment = api.load(name, overrides)
    if as_yaml:
        text = experiment.to_yaml()
        click.echo(text if can_print(text) else format_yaml(experiment.resolved, ascii_only=True), nl=False)
        return

    from archlab.cli import show as drawing
    from archlab.modeling.build import validate

    model = validate(experiment)
    figures = drawing.cost_summary(experiment, model)
    tokens = drawing.describe_tokens(experiment, Path(name).parent if is_file_name(name) else None)
    if as_json:
        click.echo(json.dumps(figures | ({"tokens": tokens} if tokens else {}), indent=2))
        return
    console = _console()
    console.print(foreign(experiment.name, "bold") + "  " + paragraph(experiment.description))
    console.print(drawing.model_tree(experiment, model))
    console.print(drawing.cost_table(experiment, figures, tokens))


@cli.command()
@NAME
@OVERRIDES
@click.option("--out", type=FOLDER, help="Write the run to this directory; the default is runs/NAME.")
@click.option("--resume", is_flag=True, help="Resume the run from its last checkpoint.")
@FORCE
@TRUST_PLUGINS
def train(name: str, overrides: tuple[str, ...], out: Path | None, resume: bool, force: bool) -> None:
    """Train an experiment and save the model.

    NAME is an experiment or a YAML file; PATH=VALUE sets a value by its path.
    """
    from archlab.cli.progress import ProgressBar

    console = _console()
    with ProgressBar(console) as progress:
        result = api.train(name, overrides, out=out, resume=resume, force=force, callbacks=[progress])
    console.print(f"validation {format_metrics(result.metrics, 'val_')}")
    click.echo(f"model    {result.model_dir}\nmetrics  {result.folder / 'metrics.jsonl'}")
    folder = shell_path(result.folder)
    further = f'generate {folder} --prompt "def "' if "val_bpb" in result.metrics else f"report {folder}"
    click.echo(f"next     archlab {further}")


@cli.command()
@click.argument("name", shell_complete=complete_space)
@OVERRIDES
@click.option("--out", type=FOLDER, help="Write the search to this directory; the default is runs/NAME.")
@click.option("--trials", type=click.IntRange(min=1), help="Run this many trials, not the number that the space sets.")
@FORCE
@TRUST_PLUGINS
def search(name: str, overrides: tuple[str, ...], out: Path | None, trials: int | None, force: bool) -> None:
    """Search a space of architectures; the same command resumes the search.

    NAME is a search space or a YAML file; PATH=VALUE sets a value of the space, or of its base experiment.
    """
    from archlab.cli.search_progress import SearchProgressBar, print_summary

    console = _console()
    with SearchProgressBar(console) as progress:
        result = api.search(name, overrides, out=out, trials=trials, force=force, callbacks=[progress])
    api.report(result.folder)
    print_summary(console, result)


@cli.command()
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Write the export to this directory.")
@FORCE
@TRUST_PLUGINS
def export(folder: Path, out: Path, force: bool) -> None:
    """Write a trained model as a directory that runs without archlab.

    FOLDER is the directory of a checkpoint, a run or a search.
    """
    path = api.export(folder, out, force=force)
    click.echo(f"{path}: model.safetensors, config.yaml and model.py")
    if "def main(" in (path / "model.py").read_text(encoding="utf-8"):
        click.echo(f"try it: python {shell_path(path / 'model.py')} 'def '")


@cli.command()
@click.argument("folder", type=FOLDER)
@click.option("--prompt", required=True, help="Continue this text.")
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(min=0), help="Generate this many tokens.")
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=float,
    help="Divide the logits by this; 0 takes the most likely token.",
)
@click.option("--top-k", type=int, help="Sample among this many most likely tokens.")
@click.option("--top-p", type=float, help="Sample among the most likely tokens that together have this probability.")
@click.option("--seed", default=0, show_default=True, type=int, help="Seed the random numbers.")
@click.option(
    "--compile/--no-compile",
    "compile",
    default=None,
    help="Compile the model; the default is to compile for 10,000 tokens or more.",
)
@TRUST_PLUGINS
def generate(folder: Path, prompt: str, tokens: int, **sampling: Any) -> None:
    """Continue a text with a trained model.

    FOLDER is the directory of a checkpoint, a run or a search.
    """
    prompt = decode_argument(prompt)
    pieces = api.generate(folder, prompt, max_new_tokens=tokens, **sampling)
    write_data(prompt)
    for piece in pieces:
        write_data(piece)
    click.echo()


@cli.command("import")
@click.argument("directory", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Write the checkpoint to this directory.")
@click.option("--tokenizer", metavar="FILE", help="Take this tokenizer.json, or 'bytes'; the default is DIRECTORY's.")
@click.option("--no-special-tokens", is_flag=True, help="Do not add the tokenizer's own special tokens to texts.")
@FORCE
def import_(directory: Path, out: Path, tokenizer: str | None, no_special_tokens: bool, force: bool) -> None:
    """Convert a checkpoint of the transformers library to one of archlab's.

    DIRECTORY holds config.json, *.safetensors and tokenizer.json.
    """
    from archlab.storage.model_tokens import read_tokens

    special_tokens = not no_special_tokens
    path = api.import_checkpoint(directory, out, tokenizer=tokenizer, special_tokens=special_tokens, force=force)
    click.echo(f"{path}: model.safetensors and experiment.yaml")
    tokens = read_tokens(path)
    if tokens is not None:
        click.echo(f"tokens  {tokens}")
    click.echo(f"next    archlab show {shell_path(path / 'experiment.yaml')}")


@cli.command("eval")
@click.argument("folder", type=FOLDER)
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
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@TRUST_PLUGINS
def eval_(folder: Path, overrides: tuple[str, ...], split: str, tokens: int | None, as_json: bool) -> None:
    """Evaluate a trained model on a split of its task, or of another task.

    FOLDER is the directory of a checkpoint, a run or a search; PATH=VALUE sets a value by its path, such as
    task.path=... or train.context=...
    """
    result = api.evaluate(folder, overrides, split=split, max_tokens=tokens)
    if as_json:
        click.echo(json.dumps({"split": split, **result.to_dict()}, indent=2))
        return
    click.echo(f"{split}: {format_metrics(result.metrics)}")
    click.echo(f"{result.tokens:,} targets at {result.tokens_per_s:,.0f} per second")


@cli.command()
@click.argument("folder", type=FOLDER)
@TRUST_PLUGINS
def report(folder: Path) -> None:
    """Write report.html of a search or a run.

    FOLDER is its directory.
    """
    click.echo(api.report(folder))


@cli.command()
@click.argument("folder", type=FOLDER)
@TRUST_PLUGINS
def migrate(folder: Path) -> None:
    """Rewrite a run, search or checkpoint of an earlier version.

    FOLDER is its directory. Former names are replaced in its YAML files and in its checkpoints.
    """
    changes = api.migrate(folder)
    click.echo("\n".join(changes) if changes else f"{folder}: nothing to do")


@cli.command()
@click.argument("what", type=click.Choice(["experiment", "search"]), default="experiment")
@click.option(
    "--plugin", "plugins", multiple=True, type=PYTHON_FILE, help="Include the components of this Python file."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the schema to this file, not to standard output.",
)
def schema(what: str, plugins: tuple[Path, ...], out: Path | None) -> None:
    """Write a JSON Schema, with which editors complete and check YAML.

    WHAT is experiment (the default) or search, for search spaces.
    """
    for plugin in plugins:
        registry.load_plugin(str(plugin.resolve()), Path(), "--plugin")
    if what == "search":
        from archlab.searching.space_schema import space_schema as make
    else:
        from archlab.config.json_schema import experiment_schema as make
    text = json.dumps(make(), indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        from archlab.storage.files import write_text
        from archlab.storage.targets import require_schema_target

        require_schema_target(out)
        write_text(out, text)


@cli.command()
@click.argument("kind", shell_complete=complete_kind)
@click.argument("name", shell_complete=complete_component)
@click.argument("knobs", nargs=-1, metavar="[KNOB=VALUE]...", shell_complete=complete_knob)
@click.option("--plugin", type=PYTHON_FILE, help="Import this Python file, which registers the component.")
def check(kind: str, name: str, knobs: tuple[str, ...], plugin: Path | None) -> None:
    """Test a component in a small model: causality, state, gradients, knobs, export.

    KIND and NAME are those that it is registered as; KNOB=VALUE sets a knob.
    """
    from rich.text import Text

    from archlab.cli.terminal import foreign

    console, failed = _console(), 0
    for result in api.check(kind, name, knobs, plugin=plugin):
        failed += not result.passed
        status = ("passed  ", "green") if result.passed else ("failed  ", "bold red")
        text = foreign(f"  {result.problem or result.description}")
        console.print(Text.assemble(status, (result.name, "bold"), text), soft_wrap=True)
    if failed:
        raise ArchlabError(f"{kind} {name}: {failed} check{'s' * (failed > 1)} failed")


@cli.command()
def doctor() -> None:
    """Check this machine and the installation for problems that make archlab slow or fail."""
    from archlab.cli.doctor import diagnose, render

    _console().print(render(diagnose()))


@cli.command()
@click.argument("operation", required=False)
def bench(operation: str | None) -> None:
    """Benchmark operations against their reference implementations and the roofline of memory.

    OPERATION is one of them; the default is all.
    """
    from archlab.cli.tables import benchmark_table
    from archlab.ops.benchmark import benchmark

    _console().print(benchmark_table(benchmark(operation)))


@cli.command()
@NAME
@OVERRIDES
@TRUST_PLUGINS
def profile(name: str, overrides: tuple[str, ...]) -> None:
    """Profile an optimizer step of an experiment on this machine; nothing is saved.

    NAME is an experiment or a YAML file; PATH=VALUE sets a value by its path.
    """
    from archlab.cli.tables import profile_table

    experiment = api.load(name, overrides)

    from archlab.training.profiler import profile as measure

    _console().print(profile_table(name, measure(experiment)))


@cli.command()
@click.argument("operation", required=False)
def kernels(operation: str | None) -> None:
    """Compile the Triton kernels for several GPUs, present or not, and print their resources.

    OPERATION is one of those with kernels; the default is all.
    """
    from archlab.cli.tables import kernels_table
    from archlab.ops.triton.report import compile_kernels

    _console().print(kernels_table(compile_kernels(operation)))
