"""Laws are recovered where losses have no noise, and forecasts know how little they know where they have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from archlab import ArchlabError, LossPoint
from archlab.planning import scaling_law
from archlab.planning.decision import decide
from archlab.planning.fit import fit_losses
from archlab.planning.fit_candidates import fit_candidates
from archlab.planning.forecast import Draws, bootstrap, interval
from archlab.planning.scaling_law import Law, Runs, fit_law

CHINCHILLA = Law(1.69, 406.4, 0.34, 410.7, 0.28)
SIZES = tuple(1e6 * 3.0**rung for rung in range(5))


def losses(
    law: Law,
    name: str = "x",
    *,
    sizes: tuple[float, ...] = SIZES,
    ratios: tuple[float, ...] = (5, 20, 80),
    seeds: int = 1,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
) -> list[LossPoint]:
    rng = rng or np.random.default_rng(0)
    return [
        LossPoint(name, n, n * r, law(n, n * r) * np.exp(noise * rng.standard_normal()), str(seed))
        for n in sizes
        for r in ratios
        for seed in range(seeds)
    ]


def fit(points: list[LossPoint], params: float = 7e9, tokens: float = 2e12, samples: int = 200):
    return fit_candidates(points, {p.candidate: (params, tokens) for p in points}, seed=0, samples=samples)


@pytest.mark.parametrize(
    ("law", "sizes", "ratios"),
    [
        (CHINCHILLA, SIZES, (5, 20, 80)),
        (CHINCHILLA, SIZES[:3], (10, 40)),
        (Law(0.3, 20.0, 0.2, 3e3, 0.6), SIZES, (3, 30)),
        (Law(2.2, 8e4, 0.7, 30.0, 0.21), SIZES[:4], (5, 10, 20)),
    ],
)
def test_a_law_without_noise_is_recovered(law: Law, sizes: tuple[float, ...], ratios: tuple[float, ...]) -> None:
    fitted = fit_law(Runs.of(losses(law, sizes=sizes, ratios=ratios), ["x"]), (True, True))
    assert fitted.converged
    found = fitted.laws(fitted.theta_1V)[0, 0]
    np.testing.assert_allclose(found, [law.E, law.A, law.a, law.B, law.b], rtol=1e-6)


def test_the_minimum_is_that_of_an_independent_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    deltas: list[float] = []
    refine = scaling_law.refine

    def spy(*args: object, delta: float, iterations: int) -> object:
        deltas.append(delta)
        return refine(*args, delta=delta, iterations=iterations)  # type: ignore[arg-type]

    monkeypatch.setattr(scaling_law, "refine", spy)
    points = losses(CHINCHILLA, seeds=2, noise=0.01)
    points[3] = LossPoint("x", points[3].params, points[3].tokens, points[3].loss * 1.3, points[3].seed)
    fitted = fit_law(Runs.of(points, ["x"]), (True, True))
    log_n, log_d, log_loss = np.log([(p.params, p.tokens, p.loss) for p in points]).T

    def residuals(t: np.ndarray) -> np.ndarray:
        law = np.exp(t[0]) + np.exp(t[1] - t[2] * (log_n - 16)) + np.exp(t[3] - t[4] * (log_d - 19))
        return np.log(law) - log_loss

    start = [0.3, 0.3, 0.5, 0.3, 0.5]
    tight = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
    other = optimize.least_squares(residuals, start, loss="huber", f_scale=deltas[-1], x_scale="jac", **tight)
    mine = Law(*fitted.laws(fitted.theta_1V)[0, 0])
    assert fitted.weight_P.min() < 0.2  # the outlier
    assert mine.a == pytest.approx(other.x[2], rel=1e-4)
    assert mine.b == pytest.approx(other.x[4], rel=1e-4)
    assert np.exp(other.x[0]) == pytest.approx(mine.E, rel=1e-4)


def planted(seed: int) -> tuple[list[LossPoint], float, float, float, float]:
    """Return losses of a law with noise, a target, the loss there, and the width of the ideal interval.

    The ideal one is that of an estimator that knows the noise and reaches the bound of Cramer and Rao.
    """
    rng = np.random.default_rng(seed)
    num_rungs, num_ratios, seeds = (int(rng.integers(low, high)) for low, high in ((3, 6), (2, 5), (1, 4)))
    a, b = rng.uniform(0.2, 0.6, 2)
    noise = np.exp(rng.uniform(np.log(0.002), np.log(0.02)))
    sizes = 10 ** rng.uniform(5, 7) * rng.uniform(2, 4) ** np.arange(num_rungs)
    ratios = 5 * 2.0 ** np.arange(num_ratios) * rng.uniform(0.5, 4)
    A, B = np.exp(rng.uniform(np.log(0.3), np.log(3), 2)) * (sizes[0] ** a, (sizes[0] * ratios[0]) ** b)
    law = Law(float(rng.uniform(1.2, 2.5)), A, a, B, b)
    points = losses(law, sizes=tuple(sizes), ratios=tuple(ratios), seeds=seeds, noise=noise, rng=rng)
    params = float(sizes[-1] * np.exp(rng.uniform(np.log(3), np.log(1000))))
    tokens = float(params * np.exp(rng.uniform(np.log(ratios[0]), np.log(ratios[-1] * 3))))
    rows = slopes(law, np.array([p.params for p in points]), np.array([p.tokens for p in points]))
    at_target = slopes(law, np.array([params]), np.array([tokens]))[0]
    scale = np.linalg.norm(rows, axis=0)
    covariance = np.linalg.inv((rows / scale).T @ (rows / scale))
    error = noise * np.sqrt(at_target / scale @ covariance @ (at_target / scale))
    return points, params, tokens, law(params, tokens), 2 * 1.645 * error * law(params, tokens)


def slopes(law: Law, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Derivatives of log L by the five numbers of the law."""
    by_n, by_d = n**-law.a, d**-law.b
    columns = [1 + 0 * n, by_n, -law.A * by_n * np.log(n), by_d, -law.B * by_d * np.log(d)]
    return np.stack(columns, 1) / (law.E + law.A * by_n + law.B * by_d)[:, None]


@pytest.mark.slow
def test_nine_of_ten_forecasts_are_in_their_interval() -> None:
    inside, widths, ideal = 0, [], []
    for seed in range(100):
        points, params, tokens, loss, width = planted(seed)
        draws = fit(points, params, tokens).draws["x"]
        low, high = interval(draws.sample(params, tokens), draws.forecast(params, tokens))
        inside += low <= loss <= high
        widths.append((high - low) / width)
        ideal.append(width)
    assert inside >= 84
    assert np.median(widths) < 1.5


@pytest.mark.slow
def test_a_crossing_is_found() -> None:
    rng = np.random.default_rng(1)
    late = Law(1.5, 900.0, 0.37, 410.7, 0.28)
    points = losses(CHINCHILLA, "early", seeds=2, noise=0.002, rng=rng) + losses(
        late, "late", seeds=2, noise=0.002, rng=rng
    )
    result = fit_losses(points, params=7e9, tokens=2e12)
    assert result.candidates[0].candidate == "late"
    assert result.candidates[0].probability_best > 0.95
    assert result.backtest.ranking == ("early", "late")
    assert result.decision is not None
    assert result.decision.is_decided
    assert any("early is best at the largest rung" in note for note in result.notes)
    assert {one.candidate for one in result.backtest.held_out} == {"early", "late"}


@pytest.mark.slow
def test_candidates_that_cannot_be_distinguished_are_reported() -> None:
    probabilities = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        points = [p for name in "ab" for p in losses(CHINCHILLA, name, seeds=2, noise=0.01, rng=rng)]
        fitted = fit(points)
        decision = decide(fitted, 7e9, 2e12)
        assert decision is not None
        probabilities.append(decision.probability_best)
        assert decision.is_decided or decision.advice.startswith("stop: ")
    assert np.mean(probabilities) < 0.85


def test_advice_names_seeds_and_sizes() -> None:
    rng = np.random.default_rng(2)
    better = Law(1.64, 406.4, 0.34, 410.7, 0.28)
    points = [
        p
        for name, law in (("a", CHINCHILLA), ("b", better))
        for p in losses(law, name, sizes=SIZES[:4], noise=0.01, rng=rng)
    ]
    decision = decide(fit(points), 7e9, 2e12)
    assert decision is not None
    assert not decision.is_decided
    assert "times as many seeds" in decision.advice or "further sizes up to" in decision.advice


def test_the_same_losses_give_the_same_figures_in_any_order() -> None:
    points = losses(CHINCHILLA, "a", seeds=2, noise=0.01) + losses(CHINCHILLA, "b", seeds=2, noise=0.01)
    shuffled = [points[i] for i in np.random.default_rng(5).permutation(len(points))]
    one, other = (fit(some).draws["b"] for some in (points, shuffled))
    assert (one.laws_S5 == other.laws_S5).all()
    assert (one.law_15 == other.law_15).all()


def test_one_ratio_of_tokens_is_forecast_along_that_ratio() -> None:
    points = losses(CHINCHILLA, ratios=(20,), seeds=2, noise=0.0003)
    on, off = fit(points, 1e9, 2e10), fit(points, 1e9, 6e10)
    near, far = on.draws["x"].sample(1e9, 2e10), off.draws["x"].sample(1e9, 6e10)
    assert "varied together (D = 20 N)" in on.notes[0]
    assert "the target is off that line" in off.notes[0]
    low, high = interval(near, on.draws["x"].forecast(1e9, 2e10))
    assert low < CHINCHILLA(1e9, 2e10) < high
    assert np.std(far) > 2 * np.std(near)
    with pytest.raises(ArchlabError, match="50 times more tokens than that: losses at another number of tokens"):
        fit(points, 1e9, 1e12)
    with pytest.raises(ArchlabError, match="x: has 3 losses, but its law has 3 numbers: at least 4 losses at 3"):
        fit(losses(CHINCHILLA, sizes=SIZES[:3], ratios=(20,)), 1e9, 2e10)


def test_one_token_count_is_a_law_of_size_at_that_count() -> None:
    points = [LossPoint("x", n, 1e9, CHINCHILLA(n, 1e9)) for n in SIZES]
    fitted = fit(points, 1e9, 1e9)
    assert fitted.draws["x"].forecast(1e9, 1e9) == pytest.approx(CHINCHILLA(1e9, 1e9), rel=1e-6)
    with pytest.raises(ArchlabError, match=r"one token count only \(tokens=1e\+09\)"):
        fit(points, 1e9, 2e9)


@pytest.mark.slow
def test_few_losses_share_exponents() -> None:
    few = {"sizes": SIZES[:4], "ratios": (5, 20), "noise": 0.002}
    points = [p for name in "abc" for p in losses(CHINCHILLA, name, rng=np.random.default_rng(ord(name)), **few)]
    fitted = fit(points)
    assert fitted.shared_exponents
    assert "exponents are shared by all candidates" in fitted.notes[0]
    assert len({tuple(draws.law_15[0, [2, 4]]) for draws in fitted.draws.values()}) == 1
    other = losses(Law(1.69, 60.0, 0.2, 1e5, 0.6), "d", **{**few, "noise": 1e-5})
    same = losses(CHINCHILLA, "a", **{**few, "noise": 1e-5})
    assert not fit([*same, *other]).shared_exponents  # the data say that they differ


def test_candidates_share_the_noise_of_seeds() -> None:
    # The same noise in both: what separates them is far more certain than either of them.
    first = losses(CHINCHILLA, "a", seeds=2, noise=0.01)
    second = [LossPoint("b", p.params, p.tokens, p.loss * 1.02, p.seed) for p in first]
    fitted = fit([*first, *second])
    decision = decide(fitted, 7e9, 2e12)
    assert decision is not None
    assert np.ptp(decision.gap_interval) < 3.29 * fitted.draws["a"].sample(7e9, 2e12).std() / 4


@pytest.mark.parametrize("others", [True, False])
def test_a_candidate_of_one_size_is_forecast_and_not_tested(others: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archlab.planning.fit_candidates.bootstrap", partial(_few_samples, bootstrap))
    points = losses(CHINCHILLA, "one", sizes=SIZES[:1], ratios=(5, 10, 20, 40, 80, 160))
    points += losses(CHINCHILLA, "many") if others else []
    fitted = fit_losses(points, params=SIZES[0], tokens=1e9)
    assert {each.candidate for each in fitted.candidates} == {point.candidate for point in points}
    assert [held.candidate for held in fitted.backtest.held_out] == ["many"] * others
    assert fitted.backtest.notes == ("one: has one size only, and none to forecast it from",)


def _few_samples(bootstrap: Callable[..., dict[str, Draws]], *given: Any) -> dict[str, Draws]:
    return bootstrap(*given[:-1], 20)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"params": 0, "tokens": 2e12}, "the target's params 0 is not a number above 0"),
        ({"params": 7e9, "tokens": float("inf")}, "the target's tokens inf is not a number above 0"),
        ({"params": 1e40, "tokens": 2e12}, r"the target's params 1e\+40 is "),
    ],
)
def test_a_target_that_is_no_size_is_refused(target: dict[str, float], message: str) -> None:
    with pytest.raises(ArchlabError, match=message):
        fit_losses(losses(CHINCHILLA), **target)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (losses(CHINCHILLA)[:2], r"x: has losses of one size only \(params=1e\+06\)"),
        (losses(CHINCHILLA, sizes=SIZES[:2]), "x: has losses of 2 sizes; at least 3 are needed"),
        (losses(CHINCHILLA, ratios=(20,))[:2], "x: has losses of 2 sizes; at least 3 are needed"),
        (losses(CHINCHILLA, ratios=(20, 80))[:5], "x: has 5 losses, but its law has 5 numbers: at least 6"),
        ([LossPoint("x", 1e6, 1e7, 3.0)] * 2, "seed 0 appears twice"),
        ([LossPoint("x", 1e6, 1e7, float("nan"))], "x: loss nan is not a number above 0"),
        ([LossPoint("x", 0, 1e7, 3.0)], "x: params 0 is not a number above 0"),
        ([LossPoint(" ", 1e6, 1e7, 3.0)], "a loss has no candidate"),
        ([], "there are no losses"),
    ],
)
def test_too_few_losses_are_refused(points: list[LossPoint], message: str) -> None:
    with pytest.raises(ArchlabError, match=message):
        fit_losses(points, params=7e9, tokens=2e12)
