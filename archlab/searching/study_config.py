"""The `study:` section of a search space: which of Optuna's samplers and pruners, and their options."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Annotated, Any, TypeAlias, Union

from archlab.config.domains import Count, Range
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError, did_you_mean, one_line

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
_SCALARS = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
REQUIRES = {"cmaes": "cmaes", "gp": "scipy", "qmc": "scipy"}
_FIXED_SEED = ("qmc",)  # its points are one sequence, that another seed would begin anew
Seed: TypeAlias = Annotated[int, Range(low=0, high=2**31)]


@dataclass(frozen=True)
class ClassConfig:
    """One of Optuna's classes by our name, with the options that YAML gave."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyConfig:
    """How a search picks its trials, which it gives up early, and how many there are."""

    sampler: ClassConfig
    pruner: ClassConfig | None
    trials: int
    seed: int
    storage: str | None

    def to_plain(self) -> dict[str, Any]:
        """Return the YAML data that says the same."""
        chosen = {"sampler": self.sampler, "pruner": self.pruner}
        plain = {key: {"type": c.type, **c.options} for key, c in chosen.items() if c}
        return plain | {key: value for key, value in asdict(self).items() if key not in chosen and value is not None}

    def make_sampler(self, trial_number: int, *, objectives: int = 1) -> Any:
        """Return the sampler for one trial; its seed depends on the trial, so that a resumed search goes on alike."""
        import optuna

        kind = self.sampler.type
        number = 0 if kind in _FIXED_SEED else trial_number
        seed = random.Random(f"{self.seed}:{number}").getrandbits(31)
        options = dict(self.sampler.options)
        if kind == "tpe" and objectives == 1 and options.get("multivariate", True):
            options = {"group": True, **options}  # so that knobs which only some trials have are drawn together too
        return _construct(getattr(optuna.samplers, SAMPLERS[kind]), {**options, "seed": seed}, "study.sampler")

    def make_pruner(self, can_prune: bool, steps: int, eval_every: int) -> Any:
        """Return the pruner for trials of `steps` updates; hyperband's resources follow from them unless given."""
        import optuna

        chosen = (
            self.pruner
            if self.pruner
            else ClassConfig("hyperband")
            if can_prune and eval_every
            else ClassConfig("none")
        )
        options = dict(chosen.options)
        if chosen.type == "hyperband":
            options = {"min_resource": max(eval_every, 1), "max_resource": steps, **options}
        return _construct(getattr(optuna.pruners, PRUNERS[chosen.type]), options, "study.pruner")

    def check_pruning(self, can_prune: bool, eval_every: int) -> None:
        """Raise ConfigError where a pruner was asked for that could see nothing."""
        if self.pruner is None or self.pruner.type == "none":
            return
        if not can_prune:
            raise ConfigError("study.pruner", f"{self.pruner.type} needs a metric like val_loss as the only objective")
        if not eval_every:
            raise ConfigError("study.pruner", f"{self.pruner.type} has nothing to judge by while train.eval_every is 0")


def parse_study(given: Any, path: str) -> StudyConfig:
    """Check the `study:` section against Optuna's own signatures."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ConfigError(path, f"{given!r} is not a mapping of settings")
    reject_unknown(given, ("sampler", "pruner", "trials", "seed", "storage"), path)
    settings = StudyConfig(
        sampler=_chosen(given.get("sampler", "tpe"), "samplers", SAMPLERS, f"{path}.sampler"),
        pruner=_chosen(given["pruner"], "pruners", PRUNERS, f"{path}.pruner") if "pruner" in given else None,
        trials=coerce(given.get("trials", 20), Count, f"{path}.trials"),
        seed=coerce(given.get("seed", 0), Seed, f"{path}.seed"),
        storage=coerce(given.get("storage"), str | None, f"{path}.storage"),
    )
    settings.make_sampler(0)
    settings.make_pruner(can_prune=True, steps=1, eval_every=1)
    return settings


def _chosen(given: Any, module: str, known: Mapping[str, str], path: str) -> ClassConfig:
    import optuna

    options = dict(given) if isinstance(given, Mapping) else {"type": given}
    name = options.pop("type", None)
    name = "none" if name is None and "none" in known else name
    if not isinstance(name, str) or name not in known:
        raise ConfigError(path, f"no {module.rstrip('s')} {name!r}{did_you_mean(name, known)}")
    if name in REQUIRES and find_spec(REQUIRES[name]) is None:
        raise ConfigError(path, f"{name} needs {REQUIRES[name]}: pip install {REQUIRES[name]}")
    kinds = _options(getattr(getattr(optuna, module), known[name]))
    reject_unknown(options, list(kinds), path, owner=name)
    return ClassConfig(name, {key: coerce(value, kinds[key], f"{path}.{key}") for key, value in options.items()})


def _options(cls: type) -> dict[str, Any]:
    """Return the options of an Optuna class that YAML can write: numbers, booleans and words."""
    known: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        annotation = parameter.annotation
        words = (annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")).split(" | ")
        if name != "seed" and all(word in _SCALARS for word in words):
            known[name] = Union[tuple(sorted((_SCALARS[word] for word in words), key=lambda t: t is str))]  # noqa: UP007
    return known


def _construct(cls: Callable[..., Any], options: Mapping[str, Any], path: str) -> Any:
    accepted = inspect.signature(cls).parameters
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls some of its options experimental
            return cls(**{key: value for key, value in options.items() if key != "seed" or "seed" in accepted})
    except (TypeError, ValueError) as error:
        raise ConfigError(path, one_line(error)) from error
