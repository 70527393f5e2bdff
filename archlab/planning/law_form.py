"""Which law the losses of a candidate can tell: of size and tokens, or of what they varied together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archlab.errors import ArchlabError
from archlab.planning.law_solver import Floats
from archlab.planning.scaling_law import Runs

_FEWEST = 3  # sizes and token counts: a power and a constant take three
_ON_A_LINE = 0.05  # of log D about its line in log N: N and D are told apart by more than a twentieth
_FARTHEST = 8.0  # times off that line, beyond which nothing is known
_SAME = 0.01


@dataclass(frozen=True)
class Form:
    """The terms of N and of D that a law has.

    Where sizes and tokens grew together, log D = line[0] + line[1] log N, and the target is `off_line` beside it.
    """

    terms: tuple[bool, bool] = (True, True)
    line: tuple[float, float] | None = None
    off_line: float = 0.0
    note: str = ""

    @property
    def num_free(self) -> int:
        """How many numbers the law of one candidate has."""
        return 1 + 2 * sum(self.terms)

    def losses(self, laws_S5: Floats, params: float, tokens: float, share_S: Floats) -> Floats:
        """Return the loss of each law, [S]; off the line, `share_S` of what falls is taken to fall with D alone."""
        E, A, a, B, b = laws_S5.T
        if self.line is None or not self.off_line:
            return E + A * params**-a + B * tokens**-b
        intercept, slope = self.line
        by_size, by_tokens = params**-a, np.exp(-a * (np.log(tokens) - intercept) / slope)
        return E + A * ((1 - share_S) * by_size + share_S * by_tokens)


def choose_form(runs: Runs, params: float, tokens: float) -> Form:
    """Return the form of the law of one candidate; raise ArchlabError saying which losses are missing."""
    x_P, z_P = np.log(runs.params_P), np.log(runs.tokens_P)
    sizes, counts, name = _distinct(x_P), _distinct(z_P), runs.names[0]
    if sizes == 1 or counts == 1:
        return _along_one(name, runs, params, tokens, sizes, counts)
    slope, intercept = np.polyfit(x_P, z_P, 1)
    if np.abs(z_P - intercept - slope * x_P).max() < _ON_A_LINE:
        _require(name, sizes, "sizes")
        return _along_line(name, float(intercept), float(slope), params, tokens)
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
            f"{name}: has losses of one {word} only ({fixed}={value:g}), so what another would give is unknown; "
            f"at least {_FEWEST} {word}s are needed"
        )
    _require(name, max(sizes, counts), "token counts" if sizes == 1 else "sizes")
    what = f"{name}: all losses are of one {word}, and so is the target: the law has no term of {fixed}"
    return Form((sizes > 1, counts > 1), note=what)


def _along_line(name: str, intercept: float, slope: float, params: float, tokens: float) -> Form:
    off = float(np.log(tokens) - intercept - slope * np.log(params))
    ratio = f"D = {np.exp(intercept):.3g} N" + (f"^{slope:.3g}" if abs(slope - 1) > _SAME else "")
    if abs(off) > np.log(_FARTHEST) or slope <= 0:
        raise ArchlabError(
            f"{name}: size and tokens varied together ({ratio}), so their effects cannot be told apart, and the target "
            f"has {np.exp(abs(off)):.3g} times {'more' if off > 0 else 'fewer'} tokens than that: "
            "losses at another number of tokens per parameter are needed"
        )
    note = f"{name}: size and tokens varied together ({ratio}): A and a stand for both, and B is 0"
    if abs(off) > _ON_A_LINE:
        note += "; the target is off that line, and its interval spans all that falls being due to one or the other"
        return Form((True, False), (intercept, slope), off, note)
    return Form((True, False), (intercept, slope), 0.0, note)


def _require(name: str, count: int, what: str) -> None:
    if count < _FEWEST:
        raise ArchlabError(f"{name}: has losses of {count} {what}; at least {_FEWEST} are needed")


def _distinct(log_P: Floats) -> int:
    """Return how many values there are that differ by more than a hundredth."""
    return 1 + int((np.diff(np.sort(log_P)) > _SAME).sum())
