"""Commands on experiments and search spaces: show, train, search, profile."""

from __future__ import annotations

import json
from pathlib import Path

import click

from archlab import api
from archlab.cli.completion import complete_space
from archlab.cli.console import make_console
from archlab.cli.options import FOLDER, FORCE, NAME, OVERRIDES, TRUST_PLUGINS, WORKERS, Workers
from archlab.cli.streams import can_print
from archlab.config.yaml_files import find_yaml, is_file_name, shipped_files
from archlab.config.yaml_writer import format_yaml
from archlab.reporting.format import format_metrics
from archlab.runtime.distributed_env import find_place
from archlab.runtime.process import restart_without_small_cache
from archlab.text import shell_path


@click.command()
@NAME
@OVERRIDES
@click.option("--json", "as_json", is_flag=True, help="Print the costs as JSON.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the resolved experiment as YAML.")
@TRUST_PLUGINS
def show(name: str, overrides: tuple[str, ...], as_json: bool, as_yaml: bool) -> None:
    """Print an experiment's modules with shapes, and its costs, without allocating it.

    NAME is an experiment, a YAML file, or a directory that archlab wrote; PATH=VALUE sets a value by its path.
    """
    from archlab.cli.terminal import foreign, paragraph

    name = _experiment_in(name)
    experiment = api.load(name, overrides)
    if as_yaml:
        text = experiment.to_yaml()
        click.echo(text if can_print(text) else format_yaml(experiment.resolved, ascii_only=True), nl=False)
        return

    from archlab.cli import show as drawing
    from archlab.modeling.build import validate
    from archlab.training.start_from import check_start

    model = validate(experiment)
    check_start(experiment, model)
    figures = drawing.cost_summary(experiment, model)
    tokens = drawing.describe_tokens(experiment, Path(name).parent if is_file_name(name) else None)
    if as_json:
        click.echo(json.dumps(figures | ({"tokens": tokens} if tokens else {}), indent=2))
        return
    console = make_console()
    console.print(foreign(experiment.name, "bold") + "  " + paragraph(experiment.description))
    console.print(drawing.model_tree(experiment, model))
    console.print(drawing.cost_table(experiment, figures, tokens))


def _experiment_in(name: str) -> str:
    """Return the experiment's file of a directory that archlab wrote, or the name as it is."""
    folder = Path(name)
    if not folder.is_dir() or (not is_file_name(name) and name in shipped_files()):
        return name

    from archlab.storage.find_model import experiment_file

    file = experiment_file(folder)
    return name if file is None else f"./{file}" if len(file.parts) == 1 else str(file)


@click.command()
@NAME
@OVERRIDES
@click.option("--out", type=FOLDER, help="Write the run to this directory; the default is runs/NAME.")
@click.option("--resume", is_flag=True, help="Resume the run from its last checkpoint.")
@FORCE
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, help="Train in this many processes on this machine."
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    help="Restart from the last checkpoint at most this many times if one of several processes is killed or lost.",
)
@click.option("--dry-run", is_flag=True, help="Try the layout without memory and print the commands; start nothing.")
@click.option("--device", help="The device that a dry run is for.")
@TRUST_PLUGINS
def train(
    name: str,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    force: bool,
    processes: int,
    max_restarts: int,
    dry_run: bool,
    device: str | None,
) -> None:
    """Train an experiment and save the model.

    NAME is an experiment, a YAML file or, with --resume, a run's directory; PATH=VALUE sets a value by its path. With
    several processes the experiment's `parallel:` says how they divide the work; torchrun and srun start them on
    several machines.
    """
    if resume and (file := _experiment_in(name)) != name:
        name, out = file, out or Path(name)
    experiment = api.load(name, overrides)
    if dry_run:
        from archlab.cli.train_dry_run import print_dry_run

        made = api.dry_run_training(experiment, device=device, processes=processes if processes > 1 else None)
        print_dry_run(make_console(), made, [name, *overrides, *(["--out", str(out)] if out else [])])
        return
    if device:
        raise click.UsageError("--device is of --dry-run; train.device says where an experiment trains")
    if processes > 1:
        from archlab.cli.many_processes import train_in_processes

        train_in_processes(experiment, processes, max_restarts)
        return
    if max_restarts:
        raise click.UsageError("--max-restarts is of several --processes")

    from archlab.cli.progress import ProgressBar
    from archlab.cli.stop_advice import advise_at_stop, has_checkpoint

    restart_without_small_cache()
    console = make_console()
    out = out or Path("runs") / experiment.name
    if not find_place().is_first:  # the first process alone prints
        api.train(experiment, out=out, resume=resume, force=force)
        return
    if resume and not has_checkpoint(out):
        click.echo(f"{out}: nothing to resume; the run starts at step 0")
    with advise_at_stop("run with --resume to continue", checkpoint_of=out), ProgressBar(console) as progress:
        result = api.train(experiment, out=out, resume=resume, force=force, callbacks=[progress])
    console.print(f"validation {format_metrics(result.metrics, 'val_')}")
    click.echo(f"model    {result.model_dir}\nmetrics  {result.folder / 'metrics.jsonl'}")
    folder = shell_path(result.folder)
    further = f'generate {folder} --prompt "def "' if "val_bpb" in result.metrics else f"report {folder}"
    click.echo(f"next     archlab {further}")


@click.command()
@click.argument("name", shell_complete=complete_space)
@OVERRIDES
@click.option("--out", type=FOLDER, help="Write the search to this directory; the default is runs/NAME.")
@click.option("--trials", type=click.IntRange(min=1), help="Run this many trials, not the number that the space sets.")
@click.option(
    "--rehearse", is_flag=True, help="Run every rung of a ladder with small models, to find mistakes in minutes."
)
@FORCE
@WORKERS
@click.option("--dry-run", is_flag=True, help="Print the estimated cost of the search, and start nothing.")
@click.option("--device", help="The device that a dry run is for; the default is cpu.")
@click.option("--devices", type=click.IntRange(min=1), help="Number of devices of each trial in a dry run.")
@click.option("--worker", is_flag=True, hidden=True, help="Be one worker of the search in the directory NAME.")
@TRUST_PLUGINS
def search(
    name: str,
    overrides: tuple[str, ...],
    out: Path | None,
    trials: int | None,
    rehearse: bool,
    force: bool,
    workers: Workers,
    dry_run: bool,
    device: str | None,
    devices: int | None,
    worker: bool,
) -> None:
    """Search a space of architectures; the same command resumes the search.

    NAME is a search space, a YAML file, or the directory of a search to resume; PATH=VALUE sets a value of the
    space or of its base experiment. A space with rungs is a ladder: its candidates are compared at growing sizes, and
    their losses are forecast at the target size.
    """
    if dry_run:
        if rehearse:
            raise click.UsageError("--dry-run estimates the whole ladder: leave out --rehearse, which runs a small one")
        from archlab.cli.dry_run import estimate_search

        estimate_search(make_console(), name, overrides, trials=trials, device=device or "cpu", devices=devices or 1)
        return
    if device or devices:
        raise click.UsageError("--device and --devices are of --dry-run; train.device says where a search trains")
    if not Path(name).is_dir():
        find_yaml(name, Path(), "search_spaces")  # a misspelled name fails before torch is imported
    restart_without_small_cache()
    from archlab.searching.trials.trial_server import fork_trial_server

    fork_trial_server()  # before anything is done that a fork would not survive
    from archlab.cli.ladder_progress import climb, is_ladder
    from archlab.cli.launched_worker import work
    from archlab.cli.search_progress import SearchProgressBar, print_summary
    from archlab.cli.stop_advice import advise_at_stop

    if worker:
        work(make_console(), Path(name))
        return
    goes_on = "run the same command without --force to continue" if force else "run the same command to continue"
    if is_ladder(name, overrides, rehearse=rehearse, trials=trials):
        overrides = (*overrides, f"study.trials={trials}") if trials is not None else overrides
        with advise_at_stop(goes_on):
            climb(make_console(), name, overrides, out=out, rehearse=rehearse, force=force, workers=workers)
        return
    console = make_console()
    with advise_at_stop(goes_on), SearchProgressBar(console) as progress:
        result = api.search(name, overrides, out=out, trials=trials, force=force, workers=workers, callbacks=[progress])
    api.report(result.folder)
    print_summary(console, result)


@click.command()
@NAME
@OVERRIDES
@TRUST_PLUGINS
def profile(name: str, overrides: tuple[str, ...]) -> None:
    """Profile an optimizer step of an experiment on this machine; nothing is saved.

    NAME is an experiment or a YAML file; PATH=VALUE sets a value by its path.
    """
    from archlab.cli.tables import profile_table
    from archlab.cli.task_bar import task_bar

    experiment = api.load(name, overrides)

    from archlab.training.profiler import profile as measure

    with task_bar():
        measured = measure(experiment)
    make_console().print(profile_table(name, measured))


COMMANDS = (show, train, search, profile)
