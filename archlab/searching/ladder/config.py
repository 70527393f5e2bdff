"""Ladders: the rungs, candidates, rules and target of a search space, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from archlab.config import experiment as config
from archlab.config.domains import Count, Index, Positive, Range
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError
from archlab.searching.ladder.rules import Rules, parse_rules
from archlab.searching.ladder.scaling import WIDTH
from archlab.searching.ladder.sizes import size_of
from archlab.searching.space.ladder_keys import EXPERIMENT
from archlab.searching.space.search_space import Space
from archlab.searching.variants import selectors
from archlab.searching.variants.named_experiment import read_named

METRICS = ("val_loss", "val_bpb")
_OF_OTHER_SEARCHES = ("inner", "compare", "seeds", "tasks")
_RUNG = ("params", "by", "set", "layers", "tokens", "tokens_per_param", "seeds", "keep", "room", "elsewhere")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")
Part = Annotated[float, Range(low=0, above=True, high=1)]


@dataclass(frozen=True)
class Rung:
    """A size of models: parameters without embeddings, or a width in `set`, and the tokens that each is trained on.

    `keep` candidates continue, and up to `room` more that cannot be distinguished from the last of them;
    `elsewhere` leaves its runs to another machine.
    """

    number: int
    params: float | None
    by: str
    set: Mapping[str, Any]
    layers: int | None
    tokens: float | None
    tokens_per_param: float | None
    seeds: int
    keep: int | None
    room: int
    elsewhere: bool

    @property
    def path(self) -> str:
        """Where the rung stands in YAML."""
        return f"rungs[{self.number - 1}]"

    def num_going_on(self, entrants: int) -> int:
        """Return how many of the given number of candidates continue from the rung at most."""
        return min(entrants, self.keep + self.room) if self.keep else entrants


@dataclass(frozen=True)
class Candidate:
    """An architecture to compare: choices for the base experiment, or for the model of another one.

    `to` is the experiment that it is at the target's size, if one is named. The values of one that `is_drawn` are a
    trial's, by the paths of the space.
    """

    name: str
    values: Mapping[str, Any]
    experiment: str | None = None
    to: str | None = None
    is_drawn: bool = False

    @property
    def path(self) -> str:
        """Where the candidate stands in YAML, or its name if it was drawn."""
        return self.name if self.is_drawn else f"candidates.{self.name}"


@dataclass(frozen=True)
class Target:
    """The experiment that the ladder leads to, and the tokens that it is to be trained on."""

    experiment: config.UnresolvedExperiment
    tokens: float


@dataclass(frozen=True)
class Ladder:
    """A checked space with rungs; `space` has base, varied knobs and study.

    `base` is the base experiment, `base_params` its size without embeddings, from which the rules begin.
    """

    space: Space
    base: config.Experiment
    base_params: int
    rungs: tuple[Rung, ...]
    named: tuple[Candidate, ...]
    rules: Rules
    branches: tuple[float, ...]
    target: Target | None
    metric: str
    is_rehearsal: bool


def parse_ladder(space: Space) -> Ladder:
    """Read the keys of a ladder from a space; raise ConfigError naming file and path."""
    with in_file_of(space):
        return _parse(space)


@contextmanager
def in_file_of(space: Space) -> Iterator[None]:
    """Name the ladder's file in errors that name no other."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or space.source) from None


def _parse(space: Space) -> Ladder:
    data = space.data
    if tuple(space.objectives.values()) != ("minimize",) or space.objective not in METRICS:
        raise ConfigError("objectives", "a ladder compares one loss: {val_loss: minimize} or {val_bpb: minimize}")
    if space.hold is not None:
        raise ConfigError("hold", "each rung has a size of its own: give params in rungs")
    for key in _OF_OTHER_SEARCHES:
        if data.get(key):
            raise ConfigError(key, "is of a search at one size; a ladder compares its candidates as they are")
    base = space.base.resolve()
    named = _parse_candidates(data.get("candidates"))
    if not named and not space.vary:
        raise ConfigError("candidates", "is missing: name candidates, or vary knobs of the base")
    rungs = data["rungs"]
    if not isinstance(rungs, list) or not rungs:
        raise ConfigError("rungs", f"{rungs!r} is not a list of rungs")
    transfers = getattr(base.train, "parametrization", "standard") != "standard"
    return Ladder(
        space=space,
        base=base,
        base_params=size_of(base),
        rungs=tuple(_parse_rung(entry, number) for number, entry in enumerate(rungs, 1)),
        named=named,
        rules=parse_rules(data.get("rules"), transfers=transfers),
        branches=_parse_branches(data.get("branches")),
        target=_parse_target(data.get("to")),
        metric=space.objective,
        is_rehearsal=coerce(data.get("rehearsal", False), bool, "rehearsal"),
    )


def _parse_rung(data: Any, number: int) -> Rung:
    path = f"rungs[{number - 1}]"
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a mapping such as {{params: 1.0e6, tokens_per_param: 20}}")
    reject_unknown(data, _RUNG, path)
    values = data.get("set") if data.get("set") is not None else {}
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{path}.set", f"{values!r} is not a mapping of paths to values")
    rung = Rung(
        number=number,
        params=coerce(data.get("params"), Positive | None, f"{path}.params"),
        by=coerce(data.get("by", WIDTH), str, f"{path}.by"),
        set=dict(values),
        layers=coerce(data.get("layers"), Count | None, f"{path}.layers"),
        tokens=coerce(data.get("tokens"), Positive | None, f"{path}.tokens"),
        tokens_per_param=coerce(data.get("tokens_per_param"), Positive | None, f"{path}.tokens_per_param"),
        seeds=coerce(data.get("seeds", 1), Annotated[int, Range(low=1, high=100)], f"{path}.seeds"),
        keep=coerce(data.get("keep"), Count | None, f"{path}.keep"),
        room=coerce(data.get("room", 0), Index, f"{path}.room"),
        elsewhere=coerce(data.get("elsewhere", False), bool, f"{path}.elsewhere"),
    )
    _check_rung(rung)
    return rung


def _check_rung(rung: Rung) -> None:
    if (rung.tokens is None) == (rung.tokens_per_param is None):
        raise ConfigError(rung.path, "needs tokens or tokens_per_param, one of them")
    has_width = rung.by in rung.set
    if rung.params is not None and has_width:
        raise ConfigError(f"{rung.path}.set", f"{rung.by} is solved for from params; give one of the two")
    if rung.params is None and not has_width and rung.layers is None:
        raise ConfigError(rung.path, f"has no size: give params, or set {rung.by}")
    if has_width:
        coerce(rung.set[rung.by], Count, f"{rung.path}.set.{rung.by}")
    for path in rung.set:
        refuse_incomparable(path, f"{rung.path}.set")


_COMPARED = {
    "task": "the data",
    "train.context": "the context",
    "model.vocab_size": "the vocabulary",
    "train.eval_tokens": "the validation text",
}
_OF_RUNGS = (
    *("train.steps", "train.batch_size", "train.accumulate", "train.seed", "train.schedule", "train.budget"),
    *("train.start_from", "train.decay_fraction"),
)


def refuse_incomparable(path: str, owner: str, *, candidate: bool = False) -> None:
    """Raise ConfigError for a path that would give losses that do not compare."""
    for fixed, what in _COMPARED.items():
        if overlap(path, fixed):
            raise ConfigError(owner, f"{path} changes {what}, and losses would not compare; set it in `override`")
    if candidate and (found := next((fixed for fixed in _OF_RUNGS if overlap(path, fixed)), None)):
        raise ConfigError(owner, f"{path}: {found} is the rung's to set, the same for every candidate")


def overlap(one: str, other: str) -> bool:
    """Return whether two paths are the same or one is below the other, wildcards standing for any index."""
    return selectors.is_prefix(one, other) or selectors.is_prefix(other, one)


def _parse_candidates(data: Any) -> tuple[Candidate, ...]:
    if data is None:
        return ()
    if not isinstance(data, Mapping):
        raise ConfigError("candidates", f"{data!r} is not a mapping of names to choices")
    return tuple(_parse_candidate(name, entry) for name, entry in data.items())


def _parse_candidate(name: Any, entry: Any) -> Candidate:
    path = f"candidates.{name}"
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise ConfigError("candidates", f"{name!r} cannot name a folder: take letters, digits, _, ., + and -")
    entry = {EXPERIMENT: entry} if isinstance(entry, str) else {} if entry is None else entry
    if not isinstance(entry, Mapping) or not all(isinstance(key, str) for key in entry):
        raise ConfigError(path, f"{entry!r} is neither a mapping of paths to values nor an experiment's name")
    values = {key: value for key, value in entry.items() if key not in (EXPERIMENT, "to")}
    for value_path in values:
        refuse_incomparable(value_path, path, candidate=True)
    experiment, to = (coerce(entry.get(key), str | None, f"{path}.{key}") for key in (EXPERIMENT, "to"))
    if to is not None and experiment is None:
        raise ConfigError(f"{path}.to", "is what another experiment becomes at the target: name that one in experiment")
    return Candidate(name, values, experiment, to)


def _parse_branches(data: Any) -> tuple[float, ...]:
    if data is None:
        return (1.0,)
    branches = coerce(data, list[Part], "branches")
    if sorted(set(branches)) != branches or branches[-1:] != [1.0]:
        raise ConfigError("branches", f"{data!r} is not a list of growing parts of a run that ends with 1.0")
    return tuple(branches)


def _parse_target(data: Any) -> Target | None:
    if data is None:
        return None
    if not isinstance(data, Mapping):
        raise ConfigError("to", f"{data!r} is not a target {{experiment, tokens}}")
    reject_unknown(data, (EXPERIMENT, "tokens"), "to")
    name = coerce(data.get(EXPERIMENT), str, f"to.{EXPERIMENT}")
    return Target(read_named(name, f"to.{EXPERIMENT}"), coerce(data.get("tokens"), Positive, "to.tokens"))
