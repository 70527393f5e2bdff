"""Public functions of archlab, one per verb; an experiment is given by name, file, mapping or object.

A failure of the machine, such as a full disk, is a MachineError whose cause is what was raised below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from archlab.config import experiment as experiments
from archlab.config.experiment import Experiment, Yaml, parse_override
from archlab.config.plugin_trust import plugin_policy
from archlab.errors import ArchlabError
from archlab.runtime.known_failures import explain_failures

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archlab.data.prepared import PreparedCorpus
    from archlab.data.task import Task
    from archlab.inference.evaluate import EvalResult
    from archlab.inference.generation import GeneratedToken, Generation, Prompt
    from archlab.modeling.cost import Cost
    from archlab.planning.dry_run import TrainingDryRun
    from archlab.planning.fit import Fit
    from archlab.planning.losses import LossPoint
    from archlab.planning.plan import Plan
    from archlab.searching.ladder.callbacks import LadderCallback
    from archlab.searching.ladder.run import LadderResult
    from archlab.searching.results.dry_run import DryRun
    from archlab.searching.run import SearchResult
    from archlab.searching.trials.callbacks import SearchCallback
    from archlab.testing import CheckResult
    from archlab.training.callbacks import Callback
    from archlab.training.progress import Progress
    from archlab.training.trainer import TrainResult

StrPath: TypeAlias = str | PathLike[str]
ExperimentLike: TypeAlias = StrPath | Mapping[str, Yaml] | Experiment


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

    `tokenizer` is the path of a tokenizer.json, "bytes", or "words" with a `vocab_size`. The same call goes on where a
    killed one ended. Raises ArchlabError for a directory that holds anything else.

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


@explain_failures
def search(
    space: StrPath | Mapping[str, Yaml],
    overrides: Sequence[str] = (),
    *,
    out: StrPath | None = None,
    trials: int | None = None,
    force: bool = False,
    workers: int | Literal["auto"] | None = None,
    callbacks: Sequence[SearchCallback] = (),
    trust_plugins: bool = False,
) -> SearchResult:
    """Search a space of architectures and return the best trial and a summary.

    `out` is the search's directory, runs/NAME by default; calling again with the same directory, or with the directory
    in place of the space, resumes the search. So many `workers` each train one trial at a time, in a process of its
    own, on this machine ("auto": as many as it has room for), or where the space's launcher places them; by default
    this process trains one after the other, with whatever components it has registered.
    `trials` replaces the number of trials of the space. Raises ArchlabError if the directory holds another search.

        result = archlab.search("quickstart", trials=20, callbacks=[archlab.SearchProgressBar()])
    """
    from archlab.searching.run import find_search
    from archlab.searching.run import search as run

    if trials is not None:  # stored with the search, so that whoever watches it knows the number
        overrides = (*overrides, f"study.trials={trials}")

    with plugin_policy(trust=trust_plugins):
        loaded, folder = find_search(space, overrides, out)
    if loaded.is_ladder:
        raise ArchlabError(f"{loaded.source}: has rungs: archlab.run_ladder runs it")
    return run(loaded, folder, trials=trials, force=force, callbacks=callbacks, workers=workers)


@explain_failures
def run_ladder(
    space: StrPath | Mapping[str, Yaml],
    overrides: Sequence[str] = (),
    *,
    out: StrPath | None = None,
    rehearse: bool = False,
    force: bool = False,
    callbacks: Sequence[LadderCallback] = (),
    workers: int | Literal["auto"] | None = None,
    trust_plugins: bool = False,
) -> LadderResult:
    """Run the ladder of a space with `rungs:`, and return its summary with the forecast of its target.

    `out` is the ladder's directory, runs/NAME by default; calling again with the same directory resumes the ladder.
    So many `workers` each train one run at a time, as those of `archlab.search` do.
    `rehearse` runs every rung in small, within 15 minutes, in runs/NAME-rehearsal by default.

        result = archlab.run_ladder("small_ladder", rehearse=True)
        result.summary.verdict
    """
    from archlab.searching.ladder.rehearsal import as_rehearsal
    from archlab.searching.ladder.run import run_ladder as run
    from archlab.searching.run import find_search

    with plugin_policy(trust=trust_plugins):
        loaded, folder = find_search(space, overrides, out)
    if not loaded.is_ladder:
        raise ArchlabError(f"{loaded.source}: has no rungs: archlab.search searches it")
    if rehearse:
        loaded = as_rehearsal(loaded)
        folder = Path(out or Path("runs") / loaded.name)
    return run(loaded, folder, force=force, callbacks=callbacks, workers=workers)


@explain_failures
def watch(folder: StrPath, *, trust_plugins: bool = False) -> Progress:
    """Return how far a run, a search or a ladder has come, while other processes work on it; nothing is written.

    Raises ArchlabError for another directory.

        archlab.watch("runs/quickstart").best
    """
    from archlab.searching.watch import open_watch

    with plugin_policy(trust=trust_plugins):
        return open_watch(Path(folder))()


@explain_failures
def dry_run(
    space: StrPath | Mapping[str, Yaml],
    overrides: Sequence[str] = (),
    *,
    trials: int | None = None,
    device: str = "cpu",
    devices: int = 1,
    trust_plugins: bool = False,
) -> DryRun:
    """Estimate what a search takes: trials, hours, gigabytes; nothing is trained and nothing written.

    `device` is one that `archlab plan` knows, `devices` how many of them each trial has. Raises ConfigError for an
    invalid space.

        archlab.dry_run("quickstart").hours
    """
    from archlab.searching.results.dry_run import dry_run as estimate
    from archlab.searching.space.search_space import load_space

    with plugin_policy(trust=trust_plugins):
        return estimate(load_space(space, overrides), trials, device=device, devices=devices)


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
def generate(
    folder: StrPath,
    prompt: str | None = None,
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    compile: bool | None = None,
    load_state: StrPath | None = None,
    save_state: StrPath | None = None,
    force: bool = False,
    trust_plugins: bool = False,
) -> Iterator[str]:
    """Generate text after a prompt, yielded piece by piece; the iterator's first step reads the prompt.

    Sampling divides logits by `temperature` (0 takes the most likely token), then keeps the `top_k` most likely tokens
    and of these the fewest whose probability reaches `top_p`. A text of `stop` ends it, and is left out. `compile`
    compiles decoding, by default from 10,000 new tokens on.

    `save_state` writes the end of the generation to a file, and `load_state` goes on from there, exactly as if it had
    not ended, or with another `prompt`; without a `seed` its random numbers go on too.
    Raises ArchlabError at once for a setting out of range, a file that is there (unless `force` is given, and it is
    a state), a state that does not fit, and if prompt and new tokens exceed the context that the model's full attention
    keeps.

        print("".join(archlab.generate("runs/a", "def main(", temperature=0.8, top_p=0.95)))
    """
    tokens = generate_tokens(
        folder,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop,
        logprobs=None,
        compile=compile,
        load_state=load_state,
        save_state=save_state,
        force=force,
        trust_plugins=trust_plugins,
    )
    return (token.text for token in tokens)


@explain_failures
def generate_tokens(
    folder: StrPath,
    prompt: str | None = None,
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    logprobs: int | None = 0,
    compile: bool | None = None,
    load_state: StrPath | None = None,
    save_state: StrPath | None = None,
    force: bool = False,
    trust_plugins: bool = False,
) -> Iterator[GeneratedToken]:
    """Generate as `generate` does, and yield each token with its text, its log probability and the `logprobs` best.

    With `logprobs=None` no probabilities are computed.

        for token in archlab.generate_tokens("runs/a", "def ", logprobs=3):
            print(token.text, token.logprob, [best.text for best in token.best])
    """
    from archlab.inference.generation import Settings
    from archlab.inference.text_model import StateFiles, TextModel

    settings = Settings(max_new_tokens, temperature, top_k, top_p, seed or 0, stop, logprobs)
    load, save = (None if file is None else Path(file) for file in (load_state, save_state))
    with plugin_policy(trust=trust_plugins):
        model = TextModel.load(Path(folder))
    return model.stream(prompt, settings, seed=seed, compile=compile, files=StateFiles(load, save, force))


@explain_failures
def generate_batch(
    folder: StrPath,
    prompts: Iterable[str | Prompt],
    *,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    logprobs: int | None = None,
    batch_size: int = 32,
    trust_plugins: bool = False,
) -> Iterator[Generation]:
    r"""Continue many prompts, `batch_size` at a time, and yield the results in their order.

    Each gives what it gives alone with the same settings, its seed among them: two equal prompts give the same text
    unless a `Prompt` has a seed of its own. Raises ArchlabError at once for any prompt that cannot be continued.

        prompts = ["def ", archlab.Prompt("class ", temperature=0.0, max_new_tokens=20)]
        for result in archlab.generate_batch("runs/a", prompts, stop=["\n\n"]):
            print(result.prompt.text, result.text, result.finish_reason)
    """
    from archlab.inference.generation import Prompt, Settings
    from archlab.inference.text_model import TextModel

    if isinstance(prompts, str):  # its characters would be prompts
        raise ArchlabError("prompts is one text; give a list of texts")
    settings = Settings(max_new_tokens, temperature, top_k, top_p, seed, stop, logprobs)
    every = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    with plugin_policy(trust=trust_plugins):
        model = TextModel.load(Path(folder))
    return model.batch(every, settings, batch_size)


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

    `to` are the names of formats, by default standalone and transformers, `options` theirs, such as `portable` of pt2.
    Of a search `trial` takes one by its number, `top` the best so many, `pareto` those of the Pareto front; several go
    to directories of their own below `out`. `tell` is called with a line for each thing done. Raises ArchlabError for a
    part that a format does not have, and an export that gives other logits than the model, which is not left behind.

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
    directory: StrPath, out: StrPath, *, tokenizer: str | None = None, special_tokens: bool = True, force: bool = False
) -> Path:
    """Convert a checkpoint directory of the transformers library to one of archlab's; return `out`.

    `tokenizer` is "bytes" or the path of a tokenizer.json; by default the directory's own, if it has one.
    `special_tokens` adds to a text what the tokenizer does of its own accord, such as a BOS token.
    """
    from archlab.interop import import_checkpoint as convert

    return convert(Path(directory), Path(out), tokenizer=tokenizer, special_tokens=special_tokens, force=force)


@explain_failures
def report(folder: StrPath, *, trust_plugins: bool = False) -> Path:
    """Write report.html of a search or a run, readable offline, or of the one that a directory is a part of.

    Returns its path.
    """
    from archlab.reporting.report import report as write
    from archlab.storage.model_places import owner_of

    with plugin_policy(trust=trust_plugins):
        return write(owner_of(Path(folder)))


@explain_failures
def migrate(folder: StrPath, *, trust_plugins: bool = False) -> list[str]:
    """Rewrite a run, a search or a checkpoint of an earlier version in the present format; return each change.

    Returns nothing where there is nothing to change. Raises ArchlabError for another directory, and a damaged one.
    """
    from archlab.storage.migrate import migrate as rewrite

    with plugin_policy(trust=trust_plugins):
        return rewrite(Path(folder))


@explain_failures
def fit(losses: StrPath | Sequence[LossPoint], *, params: float, tokens: float, seed: int = 0) -> Fit:
    """Fit a scaling law to the losses of each candidate, and forecast them at `params` parameters and `tokens` tokens.

    `losses` is a CSV file with the columns candidate, params, tokens, loss and, if you like, seed, or a list of
    LossPoints; parameters are counted without embeddings. `seed` is of the bootstrap that gives the 90 % intervals.
    Raises ArchlabError for a file that is not read, or losses too few for such a forecast.

        archlab.fit("losses.csv", params=7e9, tokens=2e12).candidates[0].interval
    """
    from dataclasses import replace

    from archlab.planning.fit import fit_losses
    from archlab.planning.losses import read_losses

    points, notes = read_losses(Path(losses)) if isinstance(losses, str | PathLike) else (losses, [])
    fitted = fit_losses(points, params=params, tokens=tokens, seed=seed)
    return replace(fitted, notes=(*notes, *fitted.notes))


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
