"""Shell completion of names and override paths; `archlab --help` says how to switch it on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from archlab.config import registry
from archlab.config.experiment import UnresolvedExperiment, read
from archlab.config.parallel import parallel_knobs
from archlab.config.registry import Slot
from archlab.config.schema import Knob
from archlab.config.spec import Spec
from archlab.config.train_config import train_knobs
from archlab.config.yaml_files import find_yaml, is_file_name, load_yaml, shipped_files
from archlab.errors import ArchlabError


def complete_experiment(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an experiment, or the path of a file."""
    return _names_or_files("experiments", incomplete)


def complete_space(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a search space, or the path of a file."""
    return _names_or_files("search_spaces", incomplete)


def complete_kind(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a kind of component."""
    return _items(registry.kinds(), incomplete)


def complete_component(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a component of the kind before it."""
    return _items(registry.names(context.params.get("kind") or ""), incomplete)


def complete_knob(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete `knob=value` for the component before it."""
    with suppress(ArchlabError):
        knobs = registry.find(context.params.get("kind") or "", context.params.get("name")).knobs
        name, equals, _ = incomplete.partition("=")
        if not equals:
            return _items([f"{knob}=" for knob in knobs], incomplete)
        return _items([f"{name}={value}" for value in _values(knobs.get(name))], incomplete)
    return []


def complete_override(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete `path=value` for the experiment, search space or trained model before it."""
    with suppress(ArchlabError):
        raw = _experiment(context)
        path, equals, _ = incomplete.partition("=")
        if equals:
            return _items([f"{path}={value}" for value in _values(raw.knob(path))], incomplete)
        return _items([f"{path}=" for path in _paths(raw)], incomplete)
    return []


def _experiment(context: click.Context) -> UnresolvedExperiment:
    """Return the experiment that a command line is about, with the overrides before the incomplete one."""
    folder, name = context.params.get("folder"), context.params.get("name") or ""
    overrides = context.params.get("overrides") or ()
    if folder is not None:
        files = (Path(folder, place, "experiment.yaml") for place in ("", "best", "final"))
        return read(next((file for file in files if file.is_file()), Path(folder, "experiment.yaml")), recorded=True)
    if context.info_name != "search":
        return read(name, overrides, recorded=True)  # a key that completes a name must not run a plugin
    space = find_yaml(name, Path(), "search_spaces")
    return read(load_yaml(space).get("base") or "", folder=space.parent, recorded=True)


def _paths(raw: UnresolvedExperiment) -> Iterator[str]:
    experiment = raw.resolve()
    yield from (f"train.{name}" for name in train_knobs())
    if isinstance(optimizer := experiment.train.optimizer, Spec):
        yield from (f"{optimizer.path}.{name}" for name in optimizer.knobs)
    yield from (f"parallel.{name}" for name in parallel_knobs())
    for spec in (experiment.model, experiment.task):
        yield spec.path
        for part in spec.walk():
            for name, value in part.knobs.items():
                yield f"{part.path}.{name}"
                if isinstance(value, list) and any(isinstance(entry, Spec) for entry in value):
                    yield from (path for entry in value for path in (entry.path, f"{entry.path}.repeat"))


def _values(knob: Knob | None) -> list[str]:
    """Return the values of a knob that takes one of a few."""
    if knob is None:
        return []
    if isinstance(knob.default, Slot):
        return [] if knob.default.many else registry.names(knob.default.kind)
    if get_origin(knob.type) is Literal:
        return [str(value) for value in get_args(knob.type)]
    return ["true", "false"] if knob.type is bool else []


def _names_or_files(folder: str, incomplete: str) -> list[CompletionItem]:
    if is_file_name(incomplete) or incomplete.startswith("."):
        return [CompletionItem(incomplete, type="file")]
    found = _items(list(shipped_files(folder)), incomplete)
    return found or [CompletionItem(incomplete, type="file")]


def _items(values: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]
