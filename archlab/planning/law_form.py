"""The law that a candidate's losses can determine: of size and tokens, or of one variable along a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archlab.errors import ArchlabError
from archlab.planning.law_design import Floats
from archlab.planning.scaling_law import Runs

_FEWEST = 3  # sizes and token counts: a power and a constant take three
_ON_A_LINE = 0.05  # of log D about its line in log N: N and D are distinguishable above a twentieth
_FARTHEST = 30.0  # times off that line: up to there, 92 of 100 planted laws fell in their 90 % interval
_SAME = 0.01
_RATIO = np.log(2.5)  # of exponents of N and D: published ones differ by less


@dataclass(frozen=True)
class Form:
    """The terms of N and of D that a law has, and log D = line[0] + line[1] log N where the two grew together."""

    terms: tuple[bool, bool] = (True, True)
    line: tuple[float, float] | None = None
    middle: float = 0.0
    note: str = ""

    @property
    def num_free(self) -> int:
        """How many numbers the law of one candidate has."""
        return 1 + 2 * sum(self.terms)

    def split(self, laws_S5: Floats, rng: np.random.Generator | None = None) -> Floats:
        """Return laws of N along the line as laws of N and D; unchanged where there is no line.

        Which share of the reducible loss is due to D, and how its exponent differs from that of N, losses along a line
        do not
        tell: both are drawn, or even without `rng`. Value, slope and curvature in the middle of the sizes are kept, so
        that the laws fit as well as before and part where they are extended.
        """
        if self.line is None:
            return laws_S5
        share, ratio = np.full(len(laws_S5), 0.5), np.ones(len(laws_S5))
        if rng is not None:
            share, ratio = rng.random(len(laws_S5)), np.exp(rng.uniform(-_RATIO, _RATIO, len(laws_S5)))
        E, A, a, _, _ = laws_S5.T
        term = A * np.exp(-a * self.middle)
        slope, curvature = 1 - share + share * ratio, 1 - share + share * ratio**2
        new_a, new_term = a * slope / curvature, term * curvature / slope**2
        constant = E + term - new_term
        kept = constant < 0  # a law with so little left to fall has no room for a second slope
        share, new_a, new_term = np.where(kept, 0.5, share), np.where(kept, a, new_a), np.where(kept, term, new_term)
        b = np.where(kept, a, ratio * new_a) / self.line[1]
        at_N = (1 - share) * new_term * np.exp(new_a * self.middle)
        at_D = share * new_term * np.exp(b * (self.line[0] + self.line[1] * self.middle))
        return np.stack([np.where(kept, E, constant), at_N, new_a, at_D, b], 1)


def losses(laws_S5: Floats, params: float, tokens: float) -> Floats:
    """Return the loss of each law, [S]."""
    E, A, a, B, b = laws_S5.T
    return E + A * params**-a + B * tokens**-b


def choose_form(runs: Runs, params: float, tokens: float) -> Form:
    """Return the form of the law of one candidate; raise ArchlabError saying which losses are missing."""
    x_P, z_P = np.log(runs.params_P), np.log(runs.tokens_P)
    sizes, counts, name = _distinct(x_P), _distinct(z_P), runs.names[0]
    if sizes == 1 or counts == 1:
        return _along_one(name, runs, params, tokens, sizes, counts)
    slope, intercept = np.polyfit(x_P, z_P, 1)
    if np.abs(z_P - intercept - slope * x_P).max() < _ON_A_LINE:
        _require(name, sizes, "sizes")
        return _along_line(name, (float(intercept), float(slope)), float(x_P.mean()), params, tokens)
    _require(name, sizes, "sizes")
    _require(name, counts, "token counts")
    return Form()


def _along_one(name: str, runs: Runs, params: float, tokens: float, sizes: int, counts: int) -> Form:
    """Return the law of the one of N and D that varied, for a target at the other's only value."""
    if sizes == counts == 1:
        raise ArchlabError(f"{name}: has losses of one size and token count; at least {_FEWEST} sizes are needed")
    fixed, value, target = ("params", runs.params_P[0], params) if sizes == 1 else ("tokens", runs.tokens_P[0], tokens)
    word = "size" if sizes == 1 else "token count"
    if abs(np.log(target / value)) > _SAME:
        raise ArchlabError(
            f"{name}: has losses of one {word} only ({fixed}={value:g}), so the effect of another is unknown; "
            f"at least {_FEWEST} {word}s are needed"
        )
    _require(name, max(sizes, counts), "token counts" if sizes == 1 else "sizes")
    what = f"all losses are of one {word}, and so is the target: the law has no term of {fixed}"
    return Form((sizes > 1, counts > 1), note=what)


def _along_line(name: str, line: tuple[float, float], middle: float, params: float, tokens: float) -> Form:
    intercept, slope = line
    off = float(np.log(tokens) - intercept - slope * np.log(params))
    ratio = f"D = {np.exp(intercept):.3g} N" + (f"^{slope:.3g}" if abs(slope - 1) > _SAME else "")
    if abs(off) > np.log(_FARTHEST) or slope <= 0:
        raise ArchlabError(
            f"{name}: size and tokens varied together ({ratio}), so their effects cannot be distinguished, and the "
            f"target has {np.exp(abs(off)):.3g} times {'more' if off > 0 else 'fewer'} tokens than that: "
            "losses at another number of tokens per parameter are needed"
        )
    note = f"size and tokens varied together ({ratio}), so the law gives each half of the reducible loss"
    if abs(off) > _ON_A_LINE:
        note += "; the target is off that line, and its interval spans all that falls being due to one or the other"
    return Form((True, False), (intercept, slope), middle, note)


def _require(name: str, count: int, what: str) -> None:
    if count < _FEWEST:
        raise ArchlabError(f"{name}: has losses of {count} {what}; at least {_FEWEST} are needed")


def _distinct(log_P: Floats) -> int:
    """Return how many values there are that differ by more than a hundredth."""
    return 1 + int((np.diff(np.sort(log_P)) > _SAME).sum())
