"""Verbs on search spaces, searches and ladders, and fits of scaling laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from archlab.api.inputs import StrPath
from archlab.config.experiment import Yaml
from archlab.config.plugin_trust import plugin_policy
from archlab.errors import ArchlabError
from archlab.runtime.known_failures import explain_failures

if TYPE_CHECKING:
    from archlab.planning.fit import Fit
    from archlab.planning.losses import LossPoint
    from archlab.searching.ladder.callbacks import LadderCallback
    from archlab.searching.ladder.dry_run import LadderDryRun
    from archlab.searching.ladder.run import LadderResult
    from archlab.searching.results.dry_run import DryRun
    from archlab.searching.run import SearchResult
    from archlab.searching.trials.callbacks import SearchCallback
    from archlab.training.progress import Progress


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
    own, on this machine ("auto": as many as fit), or where the space's launcher places them; by default
    this process trains one after the other, with whatever components it has registered.
    `trials` replaces the number of trials of the space. Raises ArchlabError if the directory holds another search.

        result = archlab.search("quickstart", trials=20, callbacks=[archlab.SearchProgressBar()])
    """
    from archlab.searching.run import find_search
    from archlab.searching.run import search as run

    if trials is not None:  # stored with the search, so that `archlab watch` knows the number
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
    """Estimate the cost of a search: trials, hours, gigabytes; nothing is trained and nothing written.

    `device` is one that `archlab plan` knows, `devices` how many of them each trial has. Raises ConfigError for an
    invalid space, ArchlabError for a ladder, which `dry_run_ladder` estimates.

        from archlab.api import dry_run

        dry_run("quickstart").hours
    """
    from archlab.searching.results.dry_run import dry_run as estimate
    from archlab.searching.space.load_space import load_space

    with plugin_policy(trust=trust_plugins):
        return estimate(load_space(space, overrides), trials, device=device, devices=devices)


@explain_failures
def dry_run_ladder(
    space: StrPath | Mapping[str, Yaml],
    overrides: Sequence[str] = (),
    *,
    device: str = "cpu",
    devices: int = 1,
    tell: Callable[[str], None] | None = None,
    trust_plugins: bool = False,
) -> LadderDryRun:
    """Estimate the cost of a ladder, rung by rung; nothing is trained and nothing written.

    `devices` is the most that a run has; `tell` is called with a line before each rung is planned. Raises ConfigError
    for an invalid space.

        from archlab.api import dry_run_ladder

        dry_run_ladder("megalodon_7b", device="a100-80g", devices=8).device_hours
    """
    from archlab.searching.ladder.dry_run import dry_run_ladder as estimate
    from archlab.searching.space.load_space import load_space

    with plugin_policy(trust=trust_plugins):
        loaded = load_space(space, overrides)
        return estimate(loaded, device=device, devices=devices, tell=tell or (lambda line: None))


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
