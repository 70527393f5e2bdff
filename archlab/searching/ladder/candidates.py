"""Candidates of a ladder as experiments: at a rung's size, and at the target's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import optuna

from archlab.config import experiment as config
from archlab.config.experiment import Experiment, UnresolvedExperiment
from archlab.errors import ConfigError
from archlab.searching.ladder.config import Candidate, Ladder, Rung, Target, in_file_of, overlap, refuse_incomparable
from archlab.searching.ladder.scaling import depth_of, resize, scale_tree, scale_values, width_of
from archlab.searching.ladder.sizes import size_of, solve_width
from archlab.searching.sampling.suggest import suggest
from archlab.searching.space.constraints import problems_of
from archlab.searching.space.ladder_keys import EXPERIMENT
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.divisors import NoValue
from archlab.searching.variants.named_experiment import read_named
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.planned import TrialCosts
from archlab.searching.variants.variant import Varied

_MODEL, _VOCABULARY, _LR = "model", "model.vocab_size", "train.lr"
_LENGTHS = ("budget", "warmup_fraction")  # other ways to give the steps, which a rung's tokens give


def all_candidates(ladder: Ladder) -> tuple[Candidate, ...]:
    """Return the named candidates, then those that the study's sampler draws from the varied knobs.

    They are drawn before anything is trained, so that the same space has the same candidates wherever it is begun or
    resumed: a sampler that learns from results has none, and draws as it begins.
    """
    with in_file_of(ladder.space):
        for path in ladder.space.vary:
            refuse_incomparable(path, f"vary.{path}", candidate=True)
        drawn = _draw(ladder) if ladder.space.vary else ()
        for candidate in (*ladder.named, *drawn):
            for rung in ladder.rungs:
                _refuse_conflict(candidate, rung, ladder)
        return (*ladder.named, *drawn)


def require_experiments(ladder: Ladder) -> None:
    """Raise ConfigError where a candidate names an experiment that is not there; `to` is needed after all rungs."""
    with in_file_of(ladder.space):
        for candidate in ladder.named:
            for key, name in ((EXPERIMENT, candidate.experiment), ("to", candidate.to)):
                if name is not None:
                    read_named(name, f"{candidate.path}.{key}")


@contextmanager
def built_at(ladder: Ladder, candidate: Candidate, where: str) -> Iterator[None]:
    """Name the ladder's file, the candidate and the size at which it is built, a rung's or `to`, in its errors."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.path, f"{candidate.path} at {where}: {error.problem}", ladder.space.source) from None


def _draw(ladder: Ladder) -> tuple[Candidate, ...]:
    space, found = ladder.space, dict[str, Candidate]()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    for number in range(space.study.trials):
        study.sampler = space.study.make_sampler(number)
        with suppress(NoValue):  # a range that divides may be empty beside the other choices
            values = suggest(study.ask(), space.varied, space.base)
            key = json.dumps(values, sort_keys=True, default=str)  # small spaces draw one twice, which is one candidate
            found.setdefault(key, Candidate(f"c{number:03d}", values, is_drawn=True))
    return tuple(found.values())


def _refuse_conflict(candidate: Candidate, rung: Rung, ladder: Ladder) -> None:
    """Raise ConfigError for a path that a candidate and a rung or its rules both set."""
    of_rung = dict.fromkeys(rung.set, f"{rung.path}.set") | dict.fromkeys(ladder.rules.set_paths(), "rules")
    of_rung |= {rung.by: rung.path}
    of_rung |= {path: rung.path for path in candidate.values if rung.layers and path.endswith(".repeat")}
    for path in candidate.values:
        for other, owner in of_rung.items():
            if overlap(path, other):
                where = f"vary.{path}" if candidate.is_drawn else candidate.path
                raise ConfigError(where, f"sets {path}, and {owner} sets {other}: one of them has to give way")


def own_experiment(ladder: Ladder, candidate: Candidate, layers: int | None = None) -> Experiment:
    """Return a candidate at the width of the experiment that it comes from, with the base's data and training.

    `layers` is the depth at which patterns and values by layer of a drawn candidate are applied, the base's by default.
    """
    raw = ladder.space.base
    if candidate.is_drawn:
        deep = config.read(resize(ladder.base, layers=layers).resolved) if layers else raw
        varied = ladder.space.varied
        return apply_values(varied, candidate.values, deep, candidate.path, keep_depth=bool(layers)).resolve()
    if candidate.experiment is not None:
        raw = _with_model_of(raw, read_named(candidate.experiment, f"{candidate.path}.experiment"))
    return raw.override(candidate.values, candidate.path).resolve()


def _with_model_of(base: UnresolvedExperiment, other: UnresolvedExperiment) -> UnresolvedExperiment:
    """Return the base with another experiment's model, which reads the base's tokens."""
    model = dict(other.tree[_MODEL]) if isinstance(other.tree.get(_MODEL), dict) else other.tree.get(_MODEL)
    vocabulary = base.get(_VOCABULARY)
    if isinstance(model, dict) and vocabulary is not None and "vocab_size" in model:
        model["vocab_size"] = vocabulary
    plugins = tuple(dict.fromkeys((*base.plugins, *other.plugins)))
    provenance = base.provenance.add(other.file, {_MODEL: model})
    return replace(base, tree={**base.tree, _MODEL: model}, provenance=provenance, plugins=plugins)


def at_rung(ladder: Ladder, candidate: Candidate, rung: Rung) -> Experiment:
    """Return a candidate's experiment of a rung: its size, tokens, batch and learning rate, without a seed."""
    own = own_experiment(ladder, candidate, rung.layers)
    layers = None if candidate.is_drawn else rung.layers
    fixed = {path: value for path, value in rung.set.items() if path != rung.by}
    if rung.params is not None:
        sized = solve_width(own, rung.params, layers=layers, by=rung.by, fixed=fixed)
    else:
        sized = resize(own, width=rung.set.get(rung.by), layers=layers, by=rung.by, fixed=fixed)
    return _with_training(ladder, candidate, rung, sized)


def nominal_params(ladder: Ladder, rung: Rung) -> float:
    """Return the parameters that a rung is meant to have: the base's at its width, where it gives none."""
    if rung.params is not None:
        return rung.params
    fixed = {path: value for path, value in rung.set.items() if path != rung.by}
    return float(size_of(resize(ladder.base, width=rung.set.get(rung.by), layers=rung.layers, by=rung.by, fixed=fixed)))


def _with_training(ladder: Ladder, candidate: Candidate, rung: Rung, sized: Experiment) -> Experiment:
    params = nominal_params(ladder, rung)
    tokens = rung.tokens if rung.tokens is not None else rung.tokens_per_param * params  # type: ignore[operator]
    tree = sized.resolved
    train = {key: value for key, value in tree["train"].items() if key not in _LENGTHS}
    settings = ladder.rules.train(train, params, ladder.base_params, tokens)
    # At the end alone: a curve costs evaluations, and the rung compares final losses.
    tree["train"] = train | settings | {"eval_every": 0}
    tree["train"] |= {path.removeprefix("train."): v for path, v in rung.set.items() if path.startswith("train.")}
    tree |= {"name": f"{candidate.name}_rung_{rung.number}", "description": ""}
    return config.load(tree)


def at_target(ladder: Ladder, target: Target, candidate: Candidate) -> Experiment:
    """Return a candidate's experiment at the target's size, trained for the target's tokens.

    A candidate's choices are applied to the target experiment, its widths in proportion. One that has another
    experiment's model is that experiment, resized to the target's parameters and depth, unless it names its own `to`.
    """
    whole = target.experiment.resolve()
    values = dict(candidate.values)
    if _LR in values:  # as a multiple of the base's: the target has a learning rate of its size
        base = ladder.base.train.lr
        values[_LR] = float(f"{whole.train.lr * values[_LR] / base:.4g}")
    if candidate.experiment is None:
        ratio = width_of(whole) / width_of(ladder.base)
        experiment = _with_choices(ladder, candidate, target, values, ratio)
    elif candidate.to is not None:
        raw = _with_model_of(target.experiment, read_named(candidate.to, f"{candidate.path}.to"))
        ratio = width_of(raw.resolve()) / width_of(own_experiment(ladder, candidate))
        experiment = raw.override(scale_values(values, ratio, width_of(raw.resolve())), candidate.path).resolve()
    else:
        raw = _with_model_of(target.experiment, read_named(candidate.experiment, f"{candidate.path}.experiment"))
        experiment = solve_width(raw.override(values, candidate.path).resolve(), size_of(whole), layers=depth_of(whole))
    return _for_tokens(experiment, target.tokens, candidate.name)


def _with_choices(
    ladder: Ladder, candidate: Candidate, target: Target, values: Mapping[str, Any], ratio: float
) -> Experiment:
    """Return the target with a candidate's choices, whose widths were those of the base."""
    width = width_of(target.experiment.resolve())
    scaled = scale_values(values, ratio, width)
    if not candidate.is_drawn:
        return target.experiment.override(scaled, candidate.path).resolve()
    varied = {path: _scale_pattern(domain, ratio, width) for path, domain in ladder.space.varied.items()}
    return apply_values(varied, scaled, target.experiment, candidate.path, keep_depth=True).resolve()


def _scale_pattern(domain: Varied, ratio: float, width: int) -> Varied:
    if not isinstance(domain, Pattern):
        return domain
    layers = {letter: scale_tree(layer, ratio, width) for letter, layer in domain.layers.items()}
    return replace(domain, layers=layers, layer=scale_tree(domain.layer, ratio, width))


def _for_tokens(experiment: Experiment, tokens: float, name: str) -> Experiment:
    tree, train = experiment.resolved, experiment.train
    steps = max(1, round(tokens / (train.batch_size * train.accumulate * train.context)))
    warmup = min(train.warmup, steps)
    tree["train"] |= {"steps": steps, "warmup": warmup}
    return config.load({**tree, "name": name})


def infeasible_reason(ladder: Ladder, candidate: Candidate) -> str:
    """Return which constraint of the space a drawn candidate violates, or nothing; a named one is there by wish."""
    if not ladder.space.constraints or not candidate.is_drawn:
        return ""
    experiment = config.read(own_experiment(ladder, candidate).resolved)
    return problems_of(ladder.space.constraints, TrialCosts(experiment, candidate.values, ladder.space.varied))
