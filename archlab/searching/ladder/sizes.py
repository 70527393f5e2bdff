"""The width at which an architecture has a rung's number of parameters, embedding and head left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from archlab.config.experiment import Experiment
from archlab.config.registry import component_of
from archlab.errors import ConfigError
from archlab.modeling.build import build_on_meta, count_parameters
from archlab.modeling.step_trace import ENDS
from archlab.searching.ladder.scaling import WIDTH, head_change, resize, width_of

TOLERANCE = 0.1  # of the parameters asked for; the fit takes the real number, so that near is good enough
_NEAR = 0.02  # good enough to look no further
_UNITS = ((2048, 64), (1024, 32), (512, 16), (128, 8), (64, 4), (0, 2))  # widths from the first are multiples of
_STEPS, _MORE_STEPS = 2, 20  # widths looked at on each side, and where none of these comes near


def params_non_embedding(model: nn.Module) -> int:
    """Return the number of parameters outside of embeddings and heads."""
    ends = [m for m in model.modules() if (c := component_of(type(m))) is not None and c.kind in ENDS]
    return count_parameters(model) - sum({id(p): p.numel() for end in ends for p in end.parameters()}.values())


def size_of(experiment: Experiment) -> int:
    """Return an experiment's number of parameters without embeddings, counted on the meta device."""
    return params_non_embedding(build_on_meta(experiment.model))


def solve_width(
    experiment: Experiment,
    params: float,
    *,
    layers: int | None = None,
    by: str = WIDTH,
    fixed: Mapping[str, Any] | None = None,
) -> Experiment:
    """Return the experiment at the width that comes nearest to a number of parameters.

    Widths that an architecture cannot have (its heads do not divide them) are passed over, and of those near enough one
    that keeps the width of a head is preferred: twice as wide, or half, counts like a miss of 10 %.
    Raises ConfigError, naming the nearest, where none comes within 10 %.
    """
    found = _Widths(experiment, layers, by, fixed or {})
    start = _estimate_width(found, params)
    best = _nearest(found, params, start, _STEPS)
    if best is None or best.error > TOLERANCE:
        best = _nearest(found, params, start, _MORE_STEPS)
    if best is None:
        assert found.problem is not None  # of the first width
        raise found.problem
    if best.error > TOLERANCE:
        raise ConfigError(by, _describe_nearest(found, best.width, params), experiment.source)
    return found.resize(best.width)


class _Choice(NamedTuple):
    """A width, compared first by whether it is near enough, then by its error and its change of the heads."""

    is_far: bool
    cost: float
    error: float
    width: int


def _nearest(found: _Widths, params: float, start: int, steps: int) -> _Choice | None:
    """Return the best of the widths around another, or None if none builds."""
    best: _Choice | None = None
    for width in _around(start, steps):
        if (size := found.size(width)) is not None:
            error = abs(size / params - 1)
            cost = error + TOLERANCE * found.head_change(width)
            best = min(filter(None, (best, _Choice(error > TOLERANCE, cost, error, width))))
            if best.cost <= _NEAR:
                break
    return best


class _Widths:
    """An architecture at several widths, each counted once."""

    def __init__(self, experiment: Experiment, layers: int | None, by: str, fixed: Mapping[str, Any]) -> None:
        self.experiment, self.layers, self.by, self.fixed = experiment, layers, by, fixed
        self.problem: ConfigError | None = None
        self._sizes: dict[int, int | None] = {}
        self._resized: dict[int, Experiment] = {}

    def resize(self, width: int) -> Experiment:
        if width not in self._resized:
            new = resize(self.experiment, width=width, layers=self.layers, by=self.by, fixed=self.fixed)
            self._resized[width] = new
        return self._resized[width]

    def size(self, width: int) -> int | None:
        if width not in self._sizes:
            self._sizes[width] = self._count(width)
        return self._sizes[width]

    def head_change(self, width: int) -> float:
        return head_change(self.experiment, self.resize(width), self.by)

    def _count(self, width: int) -> int | None:
        try:
            return size_of(self.resize(width))
        except ConfigError as error:
            self.problem = self.problem or error
            return None


def _estimate_width(found: _Widths, params: float) -> int:
    """Return a width near the solution: parameters grow with its square, or a little less."""
    width = max(2, width_of(found.experiment, found.by))
    for _ in range(6):
        size = next((size for near in _around(width, 8) if (size := found.size(near))), None)
        if size is None:
            break
        new = max(2, round(width * (params / size) ** 0.5))
        if abs(new - width) <= max(1, width // 64):
            return new
        width = new
    return width


def _around(width: int, steps: int) -> Iterator[int]:
    """Yield widths from the nearest outward, round numbers for wide models: hardware likes them."""
    unit = next(
        unit for unit, least in ((64, 2048), (32, 1024), (16, 512), (8, 128), (4, 64), (2, 0)) if width >= least
    )
    middle = max(1, round(width / unit))
    for offset in range(steps + 1):
        for sign in (1, -1) if offset else (1,):
            if middle + sign * offset >= 1:
                yield (middle + sign * offset) * unit


def _describe_nearest(found: _Widths, width: int, params: float) -> str:
    size = found.size(width)
    return f"no width gives {params:,.0f} parameters without embeddings; the nearest, {width}, gives {size:,}"
