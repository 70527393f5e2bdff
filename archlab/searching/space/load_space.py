"""Search spaces read from YAML: by name, by file or from data, with overrides of the command line, and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archlab.config import experiment as config
from archlab.config import paths, renames, yaml_files
from archlab.config.libraries import refuse_other_kind
from archlab.config.plugin_trust import is_recorded
from archlab.config.plugins import load_plugin
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError
from archlab.searching.space.compare import arms, parse_compare, with_base_choices
from archlab.searching.space.constraints import parse_constraints
from archlab.searching.space.dominance import check_dominated
from archlab.searching.space.inner import check_inner, parse_inner
from archlab.searching.space.ladder_keys import LADDER_KEYS, is_ladder
from archlab.searching.space.objectives import COSTS, VALIDATION, common_metrics, parse_objectives
from archlab.searching.space.portable import list_of, portable_data
from archlab.searching.space.promotion import check_promotion
from archlab.searching.space.search_space import Space
from archlab.searching.space.seeds import parse_seeds
from archlab.searching.space.study_config import DOMINATED, parse_study
from archlab.searching.space.tasks import parse_tasks, resolve_tasks
from archlab.searching.space.validation import validate_space
from archlab.searching.space.vary import parse_vary
from archlab.searching.variants import selectors
from archlab.searching.variants.hold import number, parse_hold
from archlab.searching.variants.named_experiment import read_named
from archlab.searching.variants.pattern import Pattern

_DATA_NAME = "search"  # the name of a space that is passed as a mapping, in errors and for its default directory
KEYS = (
    *("format", "base", "description", "plugins", "override", "vary", "hold", "objectives", "constraints", "study"),
    *("inner", "compare", "seeds", "tasks"),
    *LADDER_KEYS,
)


def load_space(space: config.Source, overrides: Sequence[str] = (), *, recorded: bool = False) -> Space:
    """Read and check a search space by its name, its file, or its data; raise ConfigError naming file and path.

    An override whose path begins with a key of spaces, such as vary or study, changes the space, any other the base.
    The plugins of one that is `recorded` in a search's directory must be trusted.
    """
    file, tree = _read(space)
    recorded = recorded or is_recorded(file)
    parsed = [config.parse_override(override) for override in overrides]
    for path, value in parsed:
        if selectors.split(path)[0] in KEYS:
            tree = _override(tree, path, value)
    base_values = {path: value for path, value in parsed if selectors.split(path)[0] not in KEYS}
    try:
        return _parse(tree, file, base_values, recorded)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or str(file)) from None


def _read(space: config.Source) -> tuple[Path, dict[str, Any]]:
    if isinstance(space, Mapping):
        return Path(_DATA_NAME), config.copy_data(space, _DATA_NAME)
    file = yaml_files.find_yaml(str(space), Path(), "search_spaces")
    return file, yaml_files.load_yaml(file)


def _override(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    try:
        top, *rest = selectors.split(path)
        if top == "vary" and rest:
            return {**tree, "vary": _override_domain(tree.get("vary") or {}, path.removeprefix("vary."), value)}
        return paths.put(tree, path, value)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, "command line") from None


def _override_domain(vary: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set the domain of a path, or a part of one, such as `train.lr.low` or `model.layers.pattern.period`."""
    whole = [key for key, domain in vary.items() if isinstance(domain, Mapping) and path.startswith(f"{key}.")]
    if not whole or path in vary:
        return {**vary, path: value}
    key = max(whole, key=len)
    return {**vary, key: paths.put(dict(vary[key]), path[len(key) + 1 :], value)}


def _parse(tree: dict[str, Any], file: Path, base_values: Mapping[str, Any], recorded: bool) -> Space:
    refuse_other_kind(tree, "search_spaces", file)
    reject_unknown(tree, KEYS, "")
    renames.check_format(tree.get("format"))
    coerce(tree.get("description"), str | None, "description")
    for plugin in coerce(list_of(tree, "plugins"), list[str], "plugins"):
        load_plugin(plugin, file.parent, recorded_in=file if recorded else None)
    base = _base(tree, file, recorded).override(base_values, "command line")
    experiment = base.resolve()
    vary = {} if is_ladder(tree) and not tree.get("vary") else parse_vary(_mapping(tree, "vary"))
    compare = parse_compare(tree.get("compare"), vary)
    inner, hold = parse_inner(tree.get("inner"), vary), parse_hold(tree["hold"], "hold") if "hold" in tree else None
    tasks = parse_tasks(tree.get("tasks"), (*vary, *(inner.domains if inner else ()), *((hold.by,) if hold else ())))
    metrics = common_metrics([experiment] if not tasks else resolve_tasks(tasks, base))
    objectives, planned = parse_objectives(tree.get("objectives"), metrics, file, recorded)
    space = Space(
        name=file.stem,
        base=base,
        vary=vary,
        hold=hold,
        objectives=objectives,
        planned=planned,
        constraints=parse_constraints(tree.get("constraints"), COSTS, file.parent, recorded=recorded),
        study=parse_study(tree.get("study"), "study"),
        source=str(file),
        data=portable_data(tree, file.parent.resolve()),
        inner=inner,
        compare=compare,
        seeds=parse_seeds(tree.get("seeds")),
        tasks=tasks,
    )
    _check_hold(space)
    validate_space(space.varied, base)
    check_inner(space.inner, base, space.varied)
    space.study.check_pruning(space.can_prune, experiment.train.eval_every)
    if space.study.pruner and space.study.pruner.type == DOMINATED:
        check_dominated(space.objectives, (*COSTS, *planned), VALIDATION)
    if space.promotion is not None:
        parts = {"inner": space.inner, "tasks": space.tasks, "compare": space.compare}
        check_promotion(space.study.runs_per_trial, parts, experiment.train.steps)
    if compare:
        space = replace(space, vary=with_base_choices(compare, vary, base))
        space.study.check_comparison(len(arms(compare, space.vary)))
    if not recorded:  # for a resumed or reported search, the experiments' files may be gone
        space.seed_values()
    return space


def _base(tree: Mapping[str, Any], file: Path, recorded: bool) -> config.UnresolvedExperiment:
    base = tree.get("base")
    if base is None:
        raise ConfigError("base", "is missing: name the experiment to search around")
    if not isinstance(base, str | Mapping):
        raise ConfigError("base", f"{base!r} is not an experiment: give its name, its file, or its sections")
    return read_named(base, "base", file.parent, recorded=recorded).override(_mapping(tree, "override"), str(file))


def _check_hold(space: Space) -> None:
    if space.hold is None:
        return
    by = space.hold.by
    if by in space.vary and not isinstance(space.vary[by], Pattern):
        raise ConfigError("hold.by", f"{by} is varied: hold solves for a knob that is not")
    number(space.base, by)


def _mapping(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = {} if tree.get(key) is None else tree[key]
    if not isinstance(value, dict) or not all(isinstance(path, str) for path in value):
        raise ConfigError(key, f"{value!r} is not a mapping of paths to values")
    return value
