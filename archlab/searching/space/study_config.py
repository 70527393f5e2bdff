"""The `study:` section of a search space: Optuna's sampler and pruner with their options, and the trials."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, Union

from archlab.config.domains import Count, Range
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError, did_you_mean, one_line
from archlab.runtime.launch import Resources
from archlab.searching.space.compare import UNFIT_PRUNERS, UNFIT_SAMPLERS, plan_rounds
from archlab.searching.space.dominance import DominanceConfig
from archlab.searching.space.launcher_config import LauncherConfig, parse_placement
from archlab.searching.space.promotion import PromotionConfig
from archlab.searching.space.storage_url import take_password
from archlab.searching.space.study_limits import parse_budget, parse_keep, parse_time_limit

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "brute_force": "BruteForceSampler",
}
PRUNERS = {
    "none": "NopPruner",
    "hyperband": "HyperbandPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "threshold": "ThresholdPruner",
}
# archlab's own pruners: Optuna has none for several objectives, and none whose trials continue where they have paused.
DOMINATED, PROMOTION = "dominated", "promotion"

_OURS = {"pruners": (DOMINATED, PROMOTION)}
PLACEMENT_KEYS = ("launcher", "resources")  # where workers run, which is not a part of the search's identity
STUDY_KEYS = (
    *("sampler", "pruner", "trials", "seed", "storage", "runs_per_trial", "keep", "budget", "time_limit"),
    *PLACEMENT_KEYS,
)
_SCALARS = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
REQUIRES = {"cmaes": "cmaes", "gp": "scipy", "qmc": "scipy"}
_FIXED_SEED = ("qmc",)  # its points are one sequence, which another seed would restart
Option: TypeAlias = bool | int | float | str | None
Seed: TypeAlias = Annotated[int, Range(low=0, high=2**31)]

Made = TypeVar("Made")


@dataclass(frozen=True)
class ClassConfig:
    """One of Optuna's classes by its YAML name, with its options."""

    type: str
    options: Mapping[str, Option] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyConfig:
    """The sampler, the pruner (None: by `make_pruner`), the number of trials, the seed, and Optuna's storage URL.

    The URL has no password, so that it can be stored and printed; `storage_url` keeps it. `runs_per_trial` is the
    number of random seeds that each candidate is trained with, `keep` that of best trials whose weights stay, `budget`
    the limits of the whole search, by unit, `time_limit` the seconds after which a trial has failed. A `launcher`
    places workers, each with `resources`; neither is stored with the search, which may continue elsewhere.
    """

    sampler: ClassConfig
    pruner: ClassConfig | None
    trials: int
    seed: int
    storage: str | None
    runs_per_trial: int = 1
    keep: int = 1
    budget: Mapping[str, float] = field(default_factory=dict)
    time_limit: float | None = None
    launcher: LauncherConfig | None = None
    resources: Resources = field(default_factory=Resources)

    def to_plain(self) -> dict[str, Any]:
        """Return the section as YAML data."""
        classes = {"sampler": self.sampler, "pruner": self.pruner}
        plain = {key: {"type": c.type, **c.options} for key, c in classes.items() if c}
        # A default of a later version is left out: a search of an earlier one must not become another search.
        later = {"runs_per_trial": self.runs_per_trial, "keep": {"best": self.keep}, "budget": dict(self.budget)}
        later["time_limit"] = self.time_limit
        defaults = {"runs_per_trial": 1, "keep": {"best": 1}, "budget": {}, "time_limit": None}
        rest = {"trials": self.trials, "seed": self.seed, "storage": self.storage}
        return (
            plain
            | {key: value for key, value in rest.items() if value is not None}
            | {key: value for key, value in later.items() if value != defaults[key]}
        )

    def make_sampler(self, trial_number: int | str, *, objectives: int = 1) -> BaseSampler:
        """Return the sampler of one trial; its seed is derived from its number, so that resuming changes nothing."""
        import optuna

        kind = self.sampler.type
        seed = self.sampler_seed(trial_number)
        options: dict[str, Option] = dict(self.sampler.options)
        if kind == "tpe" and objectives == 1 and options.get("multivariate", True):
            options = {"group": True, **options}  # also sample knobs jointly that exist in some trials only
        return _construct(getattr(optuna.samplers, SAMPLERS[kind]), {**options, "seed": seed}, "study.sampler")

    def sampler_seed(self, trial_number: int | str) -> int:
        """Return the seed of one trial's sampler."""
        number = 0 if self.sampler.type in _FIXED_SEED else trial_number
        return random.Random(f"{self.seed}:{number}").getrandbits(31)

    def make_pruner(self, can_prune: bool, steps: int, eval_every: int, runs: int = 1) -> BasePruner:
        """Return the pruner for trials of `runs` runs of `steps` steps, by default hyperband with resources in steps.

        A trial of several runs is pruned after its first one: it may be its learning rate that is bad. Without `steps`,
        those of a budget of seconds, hyperband takes them from the first trial that is complete.
        """
        import optuna

        default = ClassConfig("hyperband" if can_prune and eval_every else "none")
        config = self.pruner or default
        options = dict(config.options)
        if config.type in _OURS["pruners"]:
            return optuna.pruners.NopPruner()
        if config.type == "hyperband":
            first = max(eval_every, 1) if runs == 1 or not steps else steps
            options = {"min_resource": first, "max_resource": steps * runs or "auto", **options}
        return _construct(getattr(optuna.pruners, PRUNERS[config.type]), options, "study.pruner")

    def check_pruning(self, can_prune: bool, eval_every: int) -> None:
        """Raise ConfigError if a pruner is configured, but nothing is reported to it during training."""
        if self.pruner is None or self.pruner.type == "none":
            return
        if not can_prune and self.pruner.type != DOMINATED:
            raise ConfigError("study.pruner", f"{self.pruner.type} needs a metric like val_loss as the only objective")
        if not eval_every:
            raise ConfigError("study.pruner", f"{self.pruner.type} has nothing to judge by while train.eval_every is 0")

    def check_comparison(self, choices: int) -> None:
        """Raise ConfigError for a budget that cannot be divided among compared choices."""
        if self.sampler.type in UNFIT_SAMPLERS:
            raise ConfigError("study.sampler", f"{self.sampler.type} cannot search each choice by itself; take tpe")
        if self.pruner and self.pruner.type in UNFIT_PRUNERS:
            problem = f"{self.pruner.type} cannot judge each choice by itself; take successive_halving"
            raise ConfigError("study.pruner", problem)
        plan_rounds(self.trials, choices)


def parse_study(data: Any, path: str) -> StudyConfig:
    """Check the `study:` section against Optuna's own signatures."""
    section = {} if data is None else data
    if not isinstance(section, Mapping):
        raise ConfigError(path, f"{section!r} is not a mapping of settings")
    reject_unknown(section, STUDY_KEYS, path)
    settings = StudyConfig(
        sampler=_parse_class(section.get("sampler", "tpe"), "samplers", SAMPLERS, f"{path}.sampler"),
        pruner=_parse_pruner(section["pruner"], f"{path}.pruner") if "pruner" in section else None,
        trials=coerce(section.get("trials", 20), Count, f"{path}.trials"),
        seed=coerce(section.get("seed", 0), Seed, f"{path}.seed"),
        storage=_parse_storage(section.get("storage"), f"{path}.storage"),
        runs_per_trial=coerce(section.get("runs_per_trial", 1), Count, f"{path}.runs_per_trial"),
        keep=parse_keep(section.get("keep"), f"{path}.keep"),
        budget=parse_budget(section.get("budget"), f"{path}.budget"),
        time_limit=parse_time_limit(section.get("time_limit"), f"{path}.time_limit"),
        **parse_placement(section, path),
    )
    # Optuna checks the values of options in the constructors.
    settings.make_sampler(0)
    settings.make_pruner(can_prune=True, steps=1, eval_every=1)
    return settings


def _parse_storage(data: Any, path: str) -> str | None:
    if data is not None and not isinstance(data, str):
        raise ConfigError(path, "is not a URL")  # without the value: it may hold a password
    return None if data is None else take_password(data, path)


def _parse_pruner(data: Any, path: str) -> ClassConfig:
    options = dict(data) if isinstance(data, Mapping) else {"type": data}
    kind = options.pop("type", None)
    if kind == DOMINATED:
        return ClassConfig(DOMINATED, asdict(DominanceConfig.parse(options, path)))
    if kind == PROMOTION:
        return ClassConfig(PROMOTION, PromotionConfig.parse(options, path).to_plain())
    return _parse_class(data, "pruners", PRUNERS, path)


def _parse_class(data: Any, module: str, known: Mapping[str, str], path: str) -> ClassConfig:
    import optuna

    options = dict(data) if isinstance(data, Mapping) else {"type": data}
    name = options.pop("type", None)
    name = "none" if name is None and "none" in known else name
    if not isinstance(name, str) or name not in known:
        raise ConfigError(
            path, f"no {module.rstrip('s')} {name!r}{did_you_mean(name, [*known, *_OURS.get(module, ())])}"
        )
    if name in REQUIRES and find_spec(REQUIRES[name]) is None:
        raise ConfigError(path, f"{name} needs {REQUIRES[name]}: pip install {REQUIRES[name]}")
    kinds = _options(getattr(getattr(optuna, module), known[name]))
    reject_unknown(options, list(kinds), path, owner=name)
    return ClassConfig(name, {key: coerce(value, kinds[key], f"{path}.{key}") for key, value in options.items()})


def _options(cls: type) -> dict[str, Any]:
    """Return the options of an Optuna class that YAML can express, with their types: numbers, booleans and strings."""
    known: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        annotation = parameter.annotation
        types = (annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")).split(" | ")
        if name != "seed" and all(each in _SCALARS for each in types):
            # str comes last: coerce takes the first type that fits, and everything can be read as a string.
            known[name] = Union[tuple(sorted((_SCALARS[each] for each in types), key=lambda t: t is str))]  # noqa: UP007
    return known


def _construct(cls: Callable[..., Made], options: Mapping[str, Option], path: str) -> Made:
    accepted = inspect.signature(cls).parameters
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls some of its options experimental
            return cls(**{key: value for key, value in options.items() if key != "seed" or "seed" in accepted})
    except (TypeError, ValueError) as error:
        raise ConfigError(path, one_line(error)) from error
