"""The laws of several candidates fitted together: which form, which exponents in common, how much noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from archlab.errors import ArchlabError
from archlab.planning.forecast import SAMPLES, Draws, bootstrap
from archlab.planning.law_form import Form, choose_form
from archlab.planning.losses import LossPoint
from archlab.planning.scaling_law import LawFit, Noise, Runs, fit_law

_FEW = 4  # degrees of freedom that a candidate's own law should leave, or its exponents are shared
_POOLED = 8  # degrees of freedom below which the noise of all candidates is taken together
_QUANTILE = 0.95
_ROUNDING = 1e-14  # a variance of log L that is none: terms of a law have a smallest size
_FLAT = 1e-3  # of the loss: terms below it are none


@dataclass(frozen=True)
class Candidates:
    """Fitted candidates: their forms, laws, noise and bootstrap, by name."""

    fits: tuple[LawFit, ...]
    noises: tuple[Noise, ...]
    draws: dict[str, Draws]
    shared_exponents: bool
    notes: tuple[str, ...]


def fit_candidates(
    points: Sequence[LossPoint], targets: Mapping[str, tuple[float, float]], *, seed: int, samples: int = SAMPLES
) -> Candidates:
    """Fit the law of every candidate, each for a target of params and tokens.

    Raises ArchlabError if the losses are too few, or do not determine the forecast.
    """
    if not points:
        raise ArchlabError("there are no losses")
    names = sorted({point.candidate for point in points})
    runs = {name: Runs.of(points, [name]) for name in names}
    forms = {name: choose_form(runs[name], *targets[name]) for name in names}
    fits, notes = _fit(points, runs, forms)
    noises, noise_notes = _noises(fits)
    draws = bootstrap(fits, [forms[fit.runs.names[0]] for fit in fits], noises, seed, samples)
    notes = [*_form_notes(forms), *notes, *noise_notes]
    return Candidates(tuple(fits), tuple(noises), draws, len(fits) < len(names), tuple(notes))


def _form_notes(forms: Mapping[str, Form]) -> list[str]:
    texts = dict.fromkeys(form.note for form in forms.values() if form.note)
    return [f"{', '.join(name for name, form in forms.items() if form.note == text)}: {text}" for text in texts]


def _fit(points: Sequence[LossPoint], runs: dict[str, Runs], forms: dict[str, Form]) -> tuple[list[LawFit], list[str]]:
    """Return a fit for each candidate, or one for all whose exponents are shared."""
    lacking = [name for name in runs if _lacks(runs[name], forms[name])]
    few = [name for name in runs if len(runs[name].loss_P) - forms[name].num_free < _FEW]
    own = [] if lacking else [fit_law(runs[name], forms[name].terms) for name in runs]
    form = next(iter(forms.values()))
    can_share = len(runs) > 1 and len({form.terms for form in forms.values()}) == 1
    if few and can_share:
        together = Runs.of(points, list(runs))
        _require_enough(together, form, lacking)
        shared = fit_law(together, form.terms)
        if not own or not _differ(own, shared):
            notes = [f"exponents are shared by all candidates: too few losses for their own have {', '.join(few)}"]
            return [shared], notes + _fit_notes([shared])
    if lacking:
        name = lacking[0]
        raise ArchlabError(_too_few(name, runs[name], forms[name]))
    return own, _fit_notes(own)


def _num_cells(runs: Runs) -> int:
    return len(np.unique(runs.cell_P))


def _lacks(runs: Runs, form: Form) -> bool:
    return _num_cells(runs) < form.num_free or len(runs.loss_P) <= form.num_free


def _too_few(name: str, runs: Runs, form: Form) -> str:
    count, cells = len(runs.loss_P), _num_cells(runs)
    what = f"{count} losses at {cells} pairs of size and tokens" if count != cells else f"{count} losses"
    return (
        f"{name}: has {what}, but its law has {form.num_free} numbers: at least {form.num_free + 1} losses "
        f"at {form.num_free} pairs are needed"
    )


def _require_enough(together: Runs, form: Form, lacking: Sequence[str]) -> None:
    """Raise ArchlabError where even common exponents leave no degrees of freedom for the noise."""
    linear = 1 + sum(form.terms)
    num_free = sum(form.terms) + linear * len(together.names)
    cells = np.bincount(together.candidate_P[np.unique(together.cell_P, return_index=True)[1]])
    if lacking and (cells.min() <= linear or cells.sum() < num_free or len(together.loss_P) <= num_free):
        name = together.names[int(cells.argmin())]
        mine = together.candidate_P == together.names.index(name)
        raise ArchlabError(
            f"{name}: has {mine.sum()} losses; with common exponents at least {linear + 1} pairs of size and tokens "
            f"and {num_free + 1} losses of all candidates are needed, of its own at least {form.num_free + 1}"
        )


def _differ(own: Sequence[LawFit], shared: LawFit) -> bool:
    """Return whether exponents of their own fit so much better that it is no chance (F test, 5 %)."""
    left = sum(sum(fit.freedoms) for fit in own)
    gained = sum(shared.freedoms) - left
    unexplained = sum(fit.objective for fit in own)
    if left <= 0 or gained <= 0:
        return False
    return (shared.objective - unexplained) / gained > _f_quantile(gained, left) * unexplained / left


def _f_quantile(numerator: int, denominator: int) -> float:
    # From samples: numpy has no quantiles of this distribution, and two digits are enough.
    rng = np.random.default_rng(0)
    ratio = rng.chisquare(numerator, 20_000) / numerator / (rng.chisquare(denominator, 20_000) / denominator)
    return float(np.quantile(ratio, _QUANTILE))


def _noises(fits: Sequence[LawFit]) -> tuple[list[Noise], list[str]]:
    """Return the noise of each fit; that of all together where one has few degrees of freedom."""
    if len(fits) > 1 and min(sum(fit.freedoms) for fit in fits) < _POOLED:
        squares = sum(fit.squares[0] for fit in fits), sum(fit.squares[1] for fit in fits)
        freedoms = sum(fit.freedoms[0] for fit in fits), sum(fit.freedoms[1] for fit in fits)
        noise, strays = _noise(squares, freedoms, fits[0])
        return [noise] * len(fits), _stray_notes(["all candidates"] if strays else [])
    each = [_noise(fit.squares, fit.freedoms, fit) for fit in fits]
    return [noise for noise, _ in each], _stray_notes(
        [name for fit, (_, strays) in zip(fits, each, strict=True) if strays for name in fit.runs.names]
    )


def _noise(squares: tuple[float, float], freedoms: tuple[int, int], fit: LawFit) -> tuple[Noise, bool]:
    """Return the noise, and whether cells stray from the law by more than their seeds explain (F test, 5 %)."""
    pooled = max(sum(squares) / sum(freedoms), 1e-30)
    if min(freedoms) < 1:
        return Noise(pooled, sum(freedoms), pooled), False
    of_cells, of_runs = squares[0] / freedoms[0], squares[1] / freedoms[1]
    if of_cells <= max(_ROUNDING, of_runs * _f_quantile(*freedoms)):
        return Noise(pooled, sum(freedoms), pooled), False
    runs_of_a_cell = len(fit.runs.loss_P) / _num_cells(fit.runs)
    return Noise(of_cells, freedoms[0], of_runs + (of_cells - of_runs) / runs_of_a_cell), True


def _stray_notes(names: Sequence[str]) -> list[str]:
    return (
        [f"{', '.join(names)}: losses stray from the law by more than seeds do; intervals allow for it"]
        if names
        else []
    )


def _fit_notes(fits: Sequence[LawFit]) -> list[str]:
    open_, flat = [], []
    for fit in fits:
        terms_G3 = np.exp(fit.theta_1V[0, 2:]).reshape(-1, 3)
        constant = [name for name, terms in zip(fit.runs.names, terms_G3, strict=True) if terms[1:].sum() < _FLAT]
        flat += constant
        open_ += [] if fit.converged or constant else [", ".join(fit.runs.names)]
    notes = [f"{', '.join(flat)}: losses do not fall with size or tokens, so its law is a constant"] if flat else []
    what = "the fit has not converged: the losses leave numbers of its law open"
    return notes + [f"{names}: {what}" for names in open_]
