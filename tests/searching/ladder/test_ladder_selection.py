"""Which candidates continue from a rung, and what is said of those that cannot be distinguished."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from archlab.errors import ArchlabError
from archlab.searching.ladder.config import Rung
from archlab.searching.ladder.forecasting import BY_LOSS
from archlab.searching.ladder.noise import SeedNoise, seed_noise
from archlab.searching.ladder.results import RunResult
from archlab.searching.ladder.selection import decide, read_decision, verdict
from archlab.searching.ladder.summary import read_ladder

NOISE = 1e-3  # by which the order of two candidates' seeds differs
MARGIN = 12.706 * 2 * NOISE  # Student's t of one degree of freedom: two candidates, two seeds
OF_THREE = 4.3027 * 2**0.5 * NOISE  # of two degrees of freedom, the third candidate without noise


def results_of(behind: Mapping[str, float], seeds: int = 2) -> list[RunResult]:
    """Return results whose log losses are behind the best by given differences, with noise in two of them."""
    sign = {"a": 1, "b": -1}
    return [
        RunResult(
            1,
            name,
            seed,
            1.0,
            1000,
            20_000,
            1e9,
            math.exp(far + 0.02 * seed + sign.get(name, 0) * NOISE * (-1) ** seed),
        )
        for name, far in behind.items()
        for seed in range(seeds)
    ]


def rung(**keys: Any) -> Rung:
    defaults = {"params": 1e3, "by": "model.dim", "set": {}, "layers": None, "tokens": 2e4, "tokens_per_param": None}
    return Rung(1, **{**defaults, "seeds": 2, "keep": 1, "room": 0, "elsewhere": False, **keys})


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)],
)
def test_the_margin_of_noise_is_that_of_students_t(freedom: int, quantile: float) -> None:
    margin = SeedNoise(0.5, freedom).margin(2, 8)
    assert margin == pytest.approx(quantile * 0.5 * math.sqrt(1 / 2 + 1 / 8), rel=0.01 if freedom > 2 else 1e-4)


def test_noise_is_what_candidates_do_not_share() -> None:
    noise = seed_noise(results_of({"a": 0.0, "b": 0.3}))
    assert noise is not None
    assert (noise.freedom, noise.deviation) == (1, pytest.approx(2 * NOISE))


@pytest.mark.parametrize(
    ("room", "seeds", "goes_on", "why"),
    [
        (1, 2, ["a", "b"], {"c": "not among the 1 best"}),
        (
            0,
            2,
            ["a"],
            {"b": "not among the 1 best, though within noise of the last of them", "c": "not among the 1 best"},
        ),
        (1, 1, ["a"], {"b": "not among the 1 best", "c": "not among the 1 best"}),
    ],
)
def test_there_is_room_for_those_within_noise(room: int, seeds: int, goes_on: list[str], why: dict[str, str]) -> None:
    results = results_of({"a": 0.0, "b": 0.5 * OF_THREE, "c": 5 * OF_THREE}, seeds)
    decision = decide(rung(room=room), results, None, {})
    assert (decision.goes_on, decision.dropped, decision.by) == (goes_on, why, BY_LOSS)
    assert decision.notes == ["no law could be fitted: no target is named"]


def test_one_that_failed_does_not_continue() -> None:
    decision = decide(rung(keep=None), results_of({"a": 0.0, "b": 0.1}), None, {"a": "rung 1: the loss is nan"})
    assert decision.goes_on == ["b"]


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ({"a": 0.0}, "only a is left"),
        ({}, "only none is left"),
        ({"a": 0.0, "b": 2 * MARGIN}, "a is ahead of b by 5.1%, more than the 2.5% of noise, at this size"),
        (
            {"a": 0.0, "b": OF_THREE / 3, "c": 3 * OF_THREE},
            "stop: these .* at this budget: a, b. .* about 8.8 times as many",
        ),
        ({"a": 0.0, "b": MARGIN / 15}, r"about 220 times as many seeds \(\S+ FLOPs instead of 4e\+09\), or a larger"),
        ({"a": 0.0, "b": MARGIN / 100}, "no number of seeds within reach, since they differ too little"),
        ({"a": 0.0, "c": 0.0}, "no number of seeds within reach"),
    ],
)
def test_without_a_law_the_largest_rung_is_compared_with_its_noise(behind: dict[str, float], said: str) -> None:
    assert re.search(said, verdict("too few sizes", results_of(behind)))


def test_with_one_seed_each_the_noise_is_unknown() -> None:
    said = verdict("too few sizes", results_of({"a": 0.0, "b": 0.1}, seeds=1))
    assert said == "a is ahead by 9.8%; with one seed each, this may be noise"


def fitted(*candidates: tuple[str, float, float]) -> Any:
    """Return the fit of candidates by their forecasts and probabilities of being best, of a deviation of 0.02."""
    every = [
        SimpleNamespace(candidate=name, forecast=loss, interval=(loss - 0.0329, loss + 0.0329), probability_best=p)
        for name, loss, p in candidates
    ]
    return SimpleNamespace(candidates=every)


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        ([("a", 3.0, 1.0)], "only a is left"),
        ([("a", 3.0, 0.93), ("b", 3.1, 0.07)], "a is best with probability 93%"),
        # A difference of half a deviation of 0.02 * 2 ** 0.5: (1.282 / 0.5) ** 2 times as many runs resolve it.
        ([("a", 3.0, 0.6), ("b", 3.01414, 0.38), ("c", 3.2, 0.02)], "this budget: a, b. .* about 6.6 times as many"),
        (
            [("a", 3.0, 0.87), ("b", 3.1, 0.03), ("c", 3.1, 0.03)],
            "this budget: a, b. .* distinguish them: a few more seeds, or",
        ),
        ([("a", 3.0, 0.5), ("b", 3.0, 0.5)], "at this budget: a, b. .* no number of seeds within reach"),
    ],
)
def test_with_a_law_its_intervals_decide(candidates: list[tuple[str, float, float]], said: str) -> None:
    assert re.search(said, verdict(fitted(*candidates), results_of({"a": 0.0})))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ladder.json", "{}", "is not the summary of a ladder: 'rungs'"),
        ("ladder.json", '{"rungs": 3}', "is not the summary of a ladder: 'int' object is not iterable"),
        ("ladder.json", '{"rungs": [], "results": [{"rung": 1}]}', "holds no result of a run: "),
        ("ladder.json", '{"rungs": [], "results": [RESULT]}', "the loss of a is nan"),
        ("ladder.json", '{"rungs": [], "results": [], "surch": 1}', "is not the summary of a ladder: .*'surch'"),
        ("decision.json", '{"goes_on": ["a"]}', "is not a decision of a ladder: "),
        (
            "decision.json",
            '{"goes_on": "a", "dropped": {}, "by": "", "losses": {}}',
            "goes_on is not of its type, but 'a'",
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    result = '{"rung": 1, "candidate": "a", "seed": 0, "part": 1, "params": 1, "tokens": 1, "flops": 1, "loss": NaN}'
    (tmp_path / name).write_text(text.replace("RESULT", result))
    read: Any = {"ladder.json": read_ladder, "decision.json": read_decision}[name]
    with pytest.raises(ArchlabError, match=f"{name}: {message}"):
        read(tmp_path)
    (tmp_path / name).unlink()
    assert read(tmp_path) is None
