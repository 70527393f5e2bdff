"""The command line: verbs, their options, and errors in one line."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from archlab import __version__, api
from archlab.config import registry
from archlab.errors import ArchlabError, did_you_mean, one_line
from archlab.reporting.format import format_metrics
from archlab.runtime.process import configure_process

FOLDER = click.Path(path_type=Path, file_okay=False)
PYTHON_FILE = click.Path(path_type=Path, dir_okay=False)
WIDTH_WHERE_NO_TERMINAL = 110
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
FORCE = click.option("--force", is_flag=True, help="Overwrite what is there.")


class SuggestingGroup(click.Group):
    """A group that says which verb may have been meant."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the verb, or fail naming the nearest one."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="archlab")
@click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback where something fails.")
def cli() -> None:
    """Declare, search, train and export sequence-model architectures.

    NAME is an experiment or a search space that comes with archlab, or a path to a YAML file. Any value in
    it can be set by its path: train.lr=1e-3 'model.layers[0].mixer.ema=s4d'.
    """
    logging.basicConfig(format="archlab: %(message)s", level=logging.WARNING)


def main() -> None:
    """Run the command line; exit with 2 and one line where the user can mend what went wrong."""
    debug = "--debug" in sys.argv
    try:
        configure_process()
        cli(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message(), debug)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted", 130)
    except ArchlabError as error:
        _fail(str(error), debug)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError) as error:
        _fail(f"{type(error).__name__}: {one_line(error)}", debug)


def _fail(message: str, debug: bool) -> None:
    if debug:
        raise  # noqa: PLE0704 - called where an exception is handled
    _end(message, 2)


def _end(message: str, status: int) -> None:
    print(f"archlab: {message}", file=sys.stderr)
    sys.exit(status)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH_WHERE_NO_TERMINAL)


@cli.command("list")
@click.argument("what", required=False)
def list_(what: str | None) -> None:
    """List the experiments and search spaces, and the components of every kind or of one (WHAT)."""
    from archlab.cli.listing import components_table, experiments_table

    console = _console()
    if what is None:
        console.print(experiments_table("experiments", "archlab show NAME"))
        console.print(experiments_table("search_spaces", "archlab search NAME"))
    console.print(components_table(registry.components(what), detailed=what is not None))


@cli.command()
@click.argument("name")
@OVERRIDES
@click.option("--json", "as_json", is_flag=True, help="Print the costs as JSON.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the resolved experiment as YAML.")
def show(name: str, overrides: tuple[str, ...], as_json: bool, as_yaml: bool) -> None:
    """Print an experiment's tree with shapes, and what it costs, without building it."""
    from rich.text import Text

    experiment = api.load(name, overrides)
    if as_yaml:
        click.echo(experiment.to_yaml(), nl=False)
        return

    from archlab.cli import show as drawing

    figures = drawing.cost_summary(experiment)
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    console = _console()
    console.print(Text.assemble((experiment.name, "bold"), "  ", experiment.description))
    console.print(drawing.model_tree(experiment))
    console.print(drawing.cost_table(experiment, figures))


@cli.command()
@click.argument("name")
@OVERRIDES
@click.option("--out", type=FOLDER, help="The run's folder; runs/NAME if not given.")
@click.option("--resume", is_flag=True, help="Go on where the last checkpoint ended.")
@FORCE
def train(name: str, overrides: tuple[str, ...], out: Path | None, resume: bool, force: bool) -> None:
    """Train an experiment."""
    from archlab.cli.progress import ProgressBar

    console = _console()
    with ProgressBar(console) as display:
        result = api.train(name, overrides, out=out, resume=resume, force=force, callbacks=[display])
    console.print(f"validation {format_metrics(result.metrics, 'val_')}")
    click.echo(f"model    {result.model_dir}\nmetrics  {result.folder / 'metrics.jsonl'}")
    further = f'generate {result.folder} --prompt "def "' if "val_bpb" in result.metrics else f"report {result.folder}"
    click.echo(f"next     archlab {further}")


@cli.command()
@click.argument("name")
@OVERRIDES
@click.option("--out", type=FOLDER, help="The search's folder; runs/NAME if not given.")
@click.option("--trials", type=click.IntRange(min=1), help="How many trials, instead of the space's own number.")
@FORCE
def search(name: str, overrides: tuple[str, ...], out: Path | None, trials: int | None, force: bool) -> None:
    """Search a space of architectures; the same command goes on where it was stopped."""
    from archlab.cli.search_progress import SearchProgressBar, print_summary

    console = _console()
    with SearchProgressBar(console) as display:
        outcome = api.search(name, overrides, out=out, trials=trials, force=force, callbacks=[display])
    api.report(outcome.folder)
    print_summary(console, outcome)


@cli.command()
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="The directory to write.")
@FORCE
def export(folder: Path, out: Path, force: bool) -> None:
    """Write a trained model as a directory that runs without archlab."""
    place = api.export(folder, out, force=force)
    click.echo(f"{place}: model.safetensors, config.yaml and model.py\ntry it: python {place / 'model.py'} 'def '")


@cli.command()
@click.argument("folder", type=FOLDER)
@click.option("--prompt", required=True, help="The text to continue.")
@click.option("--tokens", default=200, show_default=True, type=click.IntRange(min=0), help="How many to add.")
@click.option("--temperature", default=0.8, show_default=True, type=float, help="0 takes the likeliest token.")
@click.option("--top-k", type=int, help="Sample among the k likeliest tokens.")
@click.option("--top-p", type=float, help="Sample among the likeliest tokens that reach this probability.")
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--compile/--no-compile", "compile", default=None, help="Default: for 10,000 tokens or more.")
def generate(folder: Path, prompt: str, tokens: int, **sampling: Any) -> None:
    """Continue a text with a trained model: a checkpoint, a run or a search."""
    pieces = api.generate(folder, prompt, max_new_tokens=tokens, **sampling)
    click.echo(prompt, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()


@cli.command("import")
@click.argument("directory", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="The checkpoint to write.")
@FORCE
def import_(directory: Path, out: Path, force: bool) -> None:
    """Read a checkpoint directory of transformers (config.json, *.safetensors) into one of archlab's."""
    place = api.import_checkpoint(directory, out, force=force)
    click.echo(f"{place}: model.safetensors and experiment.yaml\nnext  archlab show {place / 'experiment.yaml'}")


@cli.command("eval")
@click.argument("folder", type=FOLDER)
@OVERRIDES
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--tokens", type=click.IntRange(min=1), help="How many; the whole split if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def eval_(folder: Path, overrides: tuple[str, ...], split: str, tokens: int | None, as_json: bool) -> None:
    """Measure a trained model on a split of its task, or of another (task.path=..., train.context=...)."""
    found = api.evaluate(folder, overrides, split=split, max_tokens=tokens)
    if as_json:
        click.echo(json.dumps({"split": split, **found.to_dict()}, indent=2))
        return
    click.echo(f"{split}: {format_metrics(found.metrics)}")
    click.echo(f"{found.tokens:,} targets at {found.tokens_per_s:,.0f} a second")


@cli.command()
@click.argument("folder", type=FOLDER)
def report(folder: Path) -> None:
    """Write a search's or a run's report.html."""
    click.echo(api.report(folder))


@cli.command()
@click.argument("folder", type=FOLDER)
def migrate(folder: Path) -> None:
    """Rewrite a run, a search or a checkpoint of an earlier version in the present format.

    FOLDER is its directory. Names that have changed are replaced in its YAML files and checkpoints.
    """
    changes = api.migrate(folder)
    click.echo("\n".join(changes) if changes else f"{folder}: nothing to do")


@cli.command()
@click.argument("what", type=click.Choice(["experiment", "search"]), default="experiment")
@click.option("--plugin", "plugins", multiple=True, type=PYTHON_FILE, help="Add the components of this Python file.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file, not to the screen.")
def schema(what: str, plugins: tuple[Path, ...], out: Path | None) -> None:
    """Write a JSON Schema by which an editor completes and checks YAML.

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
        out.write_text(text)


@cli.command()
@click.argument("kind")
@click.argument("name")
@click.argument("knobs", nargs=-1, metavar="[KNOB=VALUE]...")
@click.option("--plugin", type=click.Path(path_type=Path, dir_okay=False), help="The Python file that registers it.")
def check(kind: str, name: str, knobs: tuple[str, ...], plugin: Path | None) -> None:
    """Test a component, shipped or your own, in a small model: causality, state, gradients, knobs, export."""
    from rich.text import Text

    console, failed = _console(), 0
    for result in api.check(kind, name, knobs, plugin=plugin):
        failed += not result.passed
        word = ("passed  ", "green") if result.passed else ("failed  ", "bold red")
        said = f"  {result.problem or result.description}"
        console.print(Text.assemble(word, (result.name, "bold"), said), soft_wrap=True)
    if failed:
        raise ArchlabError(f"{kind} {name}: {failed} check{'s' * (failed > 1)} failed")


@cli.command()
def doctor() -> None:
    """Tell what this machine has, and what makes archlab slow or fail on it."""
    from archlab.cli.doctor import diagnose, render

    _console().print(render(diagnose()))


@cli.command()
@click.argument("operation", required=False)
def bench(operation: str | None) -> None:
    """Measure the operations of layers on this machine, beside their plain forms and what its memory allows."""
    from archlab.cli.tables import table
    from archlab.ops.benchmark import benchmark

    _console().print(table(benchmark(operation)))


@cli.command()
@click.argument("name")
@OVERRIDES
def profile(name: str, overrides: tuple[str, ...]) -> None:
    """Tell where the time of an update goes when an experiment is trained here; nothing is kept."""
    from archlab.cli.profile_table import table

    experiment = api.load(name, overrides)

    from archlab.training.profiler import profile as measure

    _console().print(table(name, measure(experiment)))


@cli.command()
@click.argument("operation", required=False)
def kernels(operation: str | None) -> None:
    """Compile the Triton kernels for GPUs that need not be here, and tell what they take of them."""
    from archlab.cli.kernel_table import table
    from archlab.ops.triton.report import compile_kernels

    _console().print(table(compile_kernels(operation)))
