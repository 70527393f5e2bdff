"""Search spaces: the varied knobs of a base experiment, the objectives, the constraints and the study, from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from archlab.config import experiment as config
from archlab.config import paths, renames, yaml_files
from archlab.config.libraries import refuse_other_kind
from archlab.config.plugin_trust import is_recorded
from archlab.config.registry import load_plugin
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError, did_you_mean
from archlab.searching.space.compare import arms, parse_compare, with_base_choices
from archlab.searching.space.constraints import Constraint, parse_constraints
from archlab.searching.space.dominance import check_dominated
from archlab.searching.space.inner import Inner, check_inner, parse_inner
from archlab.searching.space.ladder_keys import LADDER_KEYS, is_ladder, portable_ladder
from archlab.searching.space.promotion import PromotionConfig, check_promotion
from archlab.searching.space.seeds import absolute_seeds, parse_seeds, seed_values
from archlab.searching.space.study_config import DOMINATED, PROMOTION, StudyConfig, parse_study
from archlab.searching.space.tasks import Tasks, parse_tasks, resolve_tasks
from archlab.searching.space.validation import validate_space
from archlab.searching.space.vary import parse_vary
from archlab.searching.variants import selectors
from archlab.searching.variants.hold import Hold, number, parse_hold
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.planned import PlannedObjective, parse_objective
from archlab.searching.variants.variant import HELD, Varied

_DATA_NAME = "search"  # the name of a space that is passed as a mapping, in errors and for its default directory
KEYS = (
    *("format", "base", "description", "plugins", "override", "vary", "hold", "objectives", "constraints", "study"),
    *("inner", "compare", "seeds", "tasks"),
    *LADDER_KEYS,
)
VALIDATION = "val_"
COSTS = (
    "params",
    "params_non_embedding",
    "flops_per_token",
    "flops_per_token_forward",
    "state_bytes",
    "max_state_bytes",
    "memory_per_device",
)
MEASURED = ("tokens_per_s", "decode_us_per_token")


@dataclass(frozen=True)
class Space:
    """A checked search space; a domain of None is the one that the component declares (`auto`).

    `data` is the YAML data of the space without its base, independent of the directory that it was read from; `planned`
    are the objectives that no training measures, by their names.
    """

    name: str
    base: config.UnresolvedExperiment
    vary: Mapping[str, Varied]
    objectives: Mapping[str, str]
    constraints: tuple[Constraint, ...]
    study: StudyConfig
    source: str
    data: Mapping[str, Any]
    planned: Mapping[str, PlannedObjective] = field(default_factory=dict)
    hold: Hold | None = None
    inner: Inner | None = None
    compare: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    tasks: Tasks = field(default_factory=dict)

    @property
    def varied(self) -> dict[str, Varied]:
        """The domain of every path that a trial has a value of: the varied ones, and the one that `hold` solves for."""
        held = {} if self.hold is None else {self.hold.by: HELD}
        return {**held, **self.vary}

    @property
    def is_ladder(self) -> bool:
        """Whether the space has rungs of growing size."""
        return is_ladder(self.data)

    @property
    def objective(self) -> str:
        """The first objective, by which the best trial is chosen."""
        return next(iter(self.objectives))

    @property
    def can_prune(self) -> bool:
        """Whether trials can be pruned: the only objective is a validation metric, reported during training.

        Not where it is a mean over tasks, which is known at the end.
        """
        return len(self.objectives) == 1 and self.objective.startswith(VALIDATION) and not self.tasks

    @property
    def plugins(self) -> tuple[str, ...]:
        """The plugins of the space and of its base experiment."""
        return tuple(dict.fromkeys((*self.data.get("plugins", ()), *self.base.plugins)))

    @property
    def promotion(self) -> PromotionConfig | None:
        """How trials pause and are promoted, if they do."""
        pruner = self.study.pruner
        is_ours = pruner is not None and pruner.type == PROMOTION
        return PromotionConfig.parse(pruner.options, "study.pruner") if pruner and is_ours else None

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """The steps at which trials pause, none unless they do."""
        if self.promotion is None:
            return ()
        train = self.base.resolve().train
        return self.promotion.rungs(train.steps, train.eval_every)

    @property
    def sign(self) -> float:
        """The sign of the first objective."""
        return self.sign_of(self.objective)

    def sign_of(self, metric: str) -> float:
        """Return -1 where a larger value of an objective is better, else 1."""
        return -1.0 if self.objectives[metric] == "maximize" else 1.0

    @property
    def pruned_by(self) -> str:
        """The objective that is reported during training: the first validation metric, if there is one."""
        return next((name for name in self.objectives if name.startswith(VALIDATION)), self.objective)

    @property
    def runs_per_trial(self) -> int:
        """The most training runs that a trial has."""
        return (self.inner.trials if self.inner else 1) + self.study.runs_per_trial - 1

    def seed_values(self) -> dict[str, dict[str, Any]]:
        """Return the values of the varied knobs in the experiments that are tried first, by their names.

        Raises ConfigError for one that the space does not have.
        """
        try:
            return seed_values(self.seeds, Path(self.source).parent, self.varied, self.base)
        except ConfigError as error:
            raise ConfigError(error.path, error.problem, error.source or self.source) from None

    def to_plain(self) -> dict[str, Any]:
        """Return the space as YAML data whose base is the file base.yaml in the same directory."""
        data = {"format": renames.current().format, "base": "base.yaml", **self.data}
        return {**data, "objectives": self._plain_objectives(), "study": self.study.to_plain()}

    def _plain_objectives(self) -> dict[str, Any]:
        named = {name: self.planned.get(name) for name in self.objectives}
        return {o.metric if o else name: o.to_plain() if o else self.objectives[name] for name, o in named.items()}

    def base_to_plain(self) -> dict[str, Any]:
        """Return the base experiment as YAML data without `extends`."""
        plugins = {"plugins": list(self.base.plugins)} if self.base.plugins else {}
        return {"format": renames.current().format, **plugins, **self.base.tree}


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
    for plugin in coerce(_list(tree, "plugins"), list[str], "plugins"):
        load_plugin(plugin, file.parent, recorded_in=file if recorded else None)
    base = _base(tree, file, recorded).override(base_values, "command line")
    experiment = base.resolve()
    vary = {} if is_ladder(tree) and not tree.get("vary") else parse_vary(_mapping(tree, "vary"))
    compare = parse_compare(tree.get("compare"), vary)
    inner, hold = parse_inner(tree.get("inner"), vary), parse_hold(tree["hold"], "hold") if "hold" in tree else None
    tasks = parse_tasks(tree.get("tasks"), (*vary, *(inner.domains if inner else ()), *((hold.by,) if hold else ())))
    metrics = _common_metrics([experiment] if not tasks else resolve_tasks(tasks, base))
    objectives, planned = _objectives(tree.get("objectives"), metrics, file, recorded)
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
        data=_portable_data(tree, file.parent.resolve()) | portable_ladder(tree, file.parent.resolve()),
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
    if not recorded:  # of a search that goes on or is reported, the experiments' files may be gone
        space.seed_values()
    return space


def _portable_data(tree: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the YAML data for a copy of the space in another directory: its file names are absolute."""
    data = {key: tree[key] for key in ("description", "vary", "hold", "inner", "compare", "tasks") if key in tree}
    if seeds := parse_seeds(tree.get("seeds")):
        data["seeds"] = absolute_seeds(seeds, folder)
    if plugins := _list(tree, "plugins"):
        data["plugins"] = [str(folder / plugin) if plugin.endswith(".py") else plugin for plugin in plugins]
    if constraints := _list(tree, "constraints"):
        data["constraints"] = [_with_absolute_path(entry, folder) for entry in constraints]
    return data


def _with_absolute_path(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    files = [key for key in ("at", "device") if key in entry and yaml_files.is_file_name(entry[key])]
    return {**entry, **{key: str(folder / entry[key]) for key in files}}


def _base(tree: Mapping[str, Any], file: Path, recorded: bool) -> config.UnresolvedExperiment:
    base = tree.get("base")
    if not isinstance(base, str | Mapping):
        raise ConfigError("base", "is missing: name the experiment to search around")
    return config.read(base, folder=file.parent, recorded=recorded).override(_mapping(tree, "override"), str(file))


def _common_metrics(experiments: Sequence[config.Experiment]) -> list[str]:
    """Return the metrics that the tasks of all experiments have."""
    every = [experiment.task.component.cls.metrics for experiment in experiments]
    return [name for name in every[0] if all(name in one for one in every)]


def _check_hold(space: Space) -> None:
    if space.hold is None:
        return
    by = space.hold.by
    if by in space.vary and not isinstance(space.vary[by], Pattern):
        raise ConfigError("hold.by", f"{by} is varied: hold solves for a knob that is not")
    number(space.base, by)


def _objectives(
    data: Any, metrics: Sequence[str], file: Path, recorded: bool
) -> tuple[dict[str, str], dict[str, PlannedObjective]]:
    """Return each objective's direction by its name, and those that are planned."""
    objectives = {"val_loss": "minimize"} if data is None else data
    if not isinstance(objectives, Mapping) or not objectives:
        raise ConfigError("objectives", f"{data!r} is not a mapping of metrics to minimize or maximize")
    known = (*(f"{VALIDATION}{name}" for name in metrics), *COSTS, *MEASURED)
    directions, planned = {}, {}
    for metric, entry in objectives.items():
        if isinstance(entry, Mapping):
            objective = parse_objective(metric, entry, COSTS, file.parent, recorded=recorded)
            planned[objective.name] = objective
            directions[objective.name] = objective.direction
            continue
        if metric not in known:
            raise ConfigError("objectives", f"no metric {metric!r}{did_you_mean(metric, known)}")
        if entry not in ("minimize", "maximize"):
            raise ConfigError(f"objectives.{metric}", f"{entry!r} is neither minimize nor maximize")
        directions[metric] = entry
    return directions, planned


def _mapping(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = {} if tree.get(key) is None else tree[key]
    if not isinstance(value, dict) or not all(isinstance(path, str) for path in value):
        raise ConfigError(key, f"{value!r} is not a mapping of paths to values")
    return value


def _list(tree: Mapping[str, Any], key: str) -> list[Any]:
    value = [] if tree.get(key) is None else tree[key]
    if not isinstance(value, list):
        raise ConfigError(key, f"{value!r} is not a list")
    return value
