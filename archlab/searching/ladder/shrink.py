"""The rehearsal of a rung: the same structure in a model that trains within seconds."""

from __future__ import annotations

from collections.abc import Sequence

from archlab.config.experiment import Experiment, load
from archlab.errors import ConfigError
from archlab.modeling.build import validate
from archlab.searching.ladder.config import Rung
from archlab.searching.ladder.scaling import depth_of, least_depth, resize, width_of

_WIDTHS = (32, 48, 64, 80, 96, 112, 128, 192, 256)  # the first that builds; a later rung begins further on
_LAST = 5  # of these, at which later rungs begin: a law takes no size twice
_CONTEXT, _SEQUENCES, _STEPS, _EVAL_TOKENS = 64, 2, 6, 256


def shrink(experiment: Experiment, rung: Rung, rungs: int, branches: Sequence[float]) -> Experiment:
    """Return a rung's experiment with its pattern of layers, and its knobs but widths, depth, context and length.

    Raises ConfigError of the original where no small width builds.
    """
    first = min(rung.number - 1, _LAST) if rungs > 1 else 0
    problem: ConfigError | None = None
    for width in _WIDTHS[first:]:
        try:
            small = _small(experiment, rung, min(width, width_of(experiment, rung.by)), branches)
            validate(small)
            return small
        except ConfigError as error:
            problem = error
    assert problem is not None
    raise problem


def _small(experiment: Experiment, rung: Rung, width: int, branches: Sequence[float]) -> Experiment:
    layers = min(depth_of(experiment), least_depth(experiment))
    small = resize(experiment, width=width, layers=layers or None, by=rung.by)
    tree = small.resolved
    train = tree["train"]
    # Branches need a decay of at least one step each, after the warm-up.
    steps = _STEPS + 2 * rung.number if len(branches) < 2 else round(4 / min(branches)) + 2 * rung.number
    train |= {
        "steps": min(steps, train["steps"]),
        "batch_size": min(_SEQUENCES, train["batch_size"]),
        "accumulate": min(2, train["accumulate"]),  # 2 where it is more than 1, so that it is rehearsed too
        "context": min(_CONTEXT, train["context"]),
        "warmup": 1,
        "eval_tokens": min(_EVAL_TOKENS, train["eval_tokens"] or _EVAL_TOKENS),
        "checkpoint_every": 0,
        "compile": "off",
        "tensorboard": False,
        "log_every": 1,
    }
    return load(tree)
