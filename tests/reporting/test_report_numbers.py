"""The numbers of a report, computed again from the study by other means."""

from __future__ import annotations

import math
import re
import statistics
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import EMA, make_ladder, make_search

from archlab.reporting.choices import choice_tables
from archlab.reporting.comparison import compare_with_baseline
from archlab.reporting.figures.history import history
from archlab.reporting.figures.laws import law_panels
from archlab.reporting.figures.rungs import probabilities, ranks
from archlab.reporting.importance import importances
from archlab.reporting.ladder_lines import backtest_lines, forecast_cells
from archlab.reporting.pages.search_tables import front_table, trials_table
from archlab.reporting.search_data import SearchData
from archlab.searching.ladder.summary import LadderSummary


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> SearchData:
    return make_search(tmp_path_factory.mktemp("sixty"), 60, seeds=3)


@pytest.fixture(scope="module")
def ladder() -> LadderSummary:
    return make_ladder(rungs=3, candidates=3)


def cells(table: str) -> list[list[str]]:
    """Return the cells of a table's body, numbers with all digits that are saved."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table.partition("<tbody>")[2])
    found = [re.findall(r"<t[dh](?:[^>]*?data-v=([^ >]*))?[^>]*>(.*?)</t[dh]>", row) for row in rows]
    return [[exact or unescape(re.sub(r"<[^>]*>", "", shown)) for exact, shown in row] for row in found]


def values_of(data: SearchData, name: str) -> dict[int, float]:
    trials = data.study.get_trials(deepcopy=False)
    return {t.number: t.user_attrs["metrics"][name] for t in trials if t.state.name == "COMPLETE"}


def test_choices(sixty: SearchData) -> None:
    table = next(each for each in choice_tables(sixty) if 'data-name="choices-ema"' in each)
    trials = sixty.study.get_trials(deepcopy=False)
    rows = cells(table)
    assert {row[0] for row in rows} == {"cema", "ema", "s4d", "none"}
    best_of_all = min(values_of(sixty, "val_loss").values())
    for choice, tried, best, median, spread, behind, _, complete, *_, best_trial in rows:
        own = [trial for trial in trials if trial.user_attrs["values"][EMA] == choice]
        done = {t.number: t.value for t in own if t.state.name == "COMPLETE"}
        assert (int(tried), int(complete)) == (len(own), len(done))
        assert int(best_trial) == min(done, key=lambda number: done[number])
        low, middle, high = np.quantile(list(done.values()), (0.25, 0.5, 0.75))
        assert [float(each) for each in (best, median, spread, behind)] == pytest.approx(
            [min(done.values()), middle, high - low, min(done.values()) - best_of_all], abs=1e-6
        )


def test_noise_and_what_it_explains(sixty: SearchData) -> None:
    seeds = [run.seed_values for run in sixty.complete]
    pooled = math.sqrt(statistics.fmean(statistics.variance(values) for values in seeds))  # as many seeds each
    assert sixty.noise is not None
    assert sixty.noise.std == pytest.approx(pooled)
    assert sixty.noise.freedom == 2 * len(seeds)
    comparison = compare_with_baseline(sixty)
    assert comparison is not None
    assert comparison.margin == pytest.approx(2.0 * pooled * math.sqrt(2), rel=0.03)  # t of 82 is 1.99
    head = re.findall(r"<th[^>]*>(.*?)</th>", trials_table(sixty).partition("</thead>")[0])
    baseline, *rows = cells(trials_table(sixty))
    difference, noise = head.index("vs. baseline"), head.index("± seeds")
    assert baseline[difference] == baseline[noise] == ""
    done = [row for row in rows if row[1] == "complete"]
    for row in done:
        value = values_of(sixty, "val_loss")[int(row[0])]
        assert float(row[difference]) == pytest.approx(value - sixty.baseline.metrics["val_loss"], abs=1e-6)
        assert float(row[noise]) == pytest.approx(pooled * math.sqrt(2 / 3), abs=1e-6)


def test_the_front_of_three_objectives(tmp_path: Path) -> None:
    data = make_search(tmp_path, 60, objectives=3)
    names = ("val_loss", "params", "tokens_per_s")
    points = {
        number: np.array([value, values_of(data, "params")[number], -values_of(data, "tokens_per_s")[number]])
        for number, value in values_of(data, "val_loss").items()
    }
    front = {
        number
        for number, own in points.items()
        if not any((other <= own).all() and (other < own).any() for other in points.values())
    }
    *rows, baseline = cells(front_table(data))
    assert {int(row[0]) for row in rows if row[-1] == "yes"} == front
    assert baseline[0] == "baseline"
    assert [float(row[1]) for row in rows] == sorted(float(row[1]) for row in rows)
    for row in rows:
        exact = [values_of(data, name)[int(row[0])] for name in names]
        assert [float(cell) for cell in row[1:4]] == pytest.approx(exact, rel=1e-6)


def test_the_best_so_far(sixty: SearchData) -> None:
    figure: Any = history(sixty)
    (line,) = [mark for mark in figure.spec["panels"][0]["marks"] if mark["m"] == "line"]
    found = values_of(sixty, "val_loss")
    so_far = np.minimum.accumulate([found.get(number, np.inf) for number in range(60)])
    for step, value in zip(line["x"], line["y"], strict=True):
        assert value == pytest.approx(so_far[step], rel=1e-5)
    assert len(line["x"]) == len({value for value in so_far if np.isfinite(value)}) + 1  # to the last trial


@pytest.mark.slow  # it may be the first to import scikit-learn
@pytest.mark.parametrize(("complete", "is_told"), [(19, False), (20, True)])
def test_importance_from_twenty_trials_on(complete: int, is_told: bool, sixty: SearchData) -> None:
    kept = [run for run in sixty.trials if run.state == "complete"][:complete]
    shares, problem = importances(SearchData(**{**_fields(sixty), "trials": kept}))
    assert bool(shares) == is_told
    assert bool(problem) != is_told


def _fields(data: SearchData) -> dict[str, Any]:
    return {name: getattr(data, name) for name in SearchData.__dataclass_fields__}


@pytest.mark.slow
def test_a_ladder_s_figures_are_those_of_its_runs(ladder: LadderSummary) -> None:
    order: Any = ranks(ladder)
    for rung_number, rung in enumerate(ladder.rungs):
        runs: dict[str, list[float]] = {}
        for run in ladder.results:
            if run.rung == rung.number and run.loss is not None:
                runs.setdefault(run.candidate, []).append(run.loss)
        ranking = sorted(runs, key=lambda name: statistics.fmean(runs[name]))
        for mark in order.spec["panels"][0]["marks"]:
            if mark["m"] == "line" and rung_number in mark["x"]:
                assert mark["y"][mark["x"].index(rung_number)] == ranking.index(mark["name"])
    chances: Any = probabilities(ladder)
    last = {row["label"]: row["value"] for row in chances.spec["rows"]}  # one forecast, and so bars
    target: Any = ladder.target
    assert last == {name: found["probability_best"] for name, found in target["candidates"].items()}
    assert sum(last.values()) == pytest.approx(1)
    losses: Any = law_panels(ladder)
    for panel, axis in zip(losses.spec["panels"], ("params", "flops"), strict=True):
        low, high = panel["x"]["domain"]
        shown = sorted(x for mark in panel["marks"] if mark["m"] == "dot" and len(mark["x"]) > 1 for x in mark["x"])
        assert shown == pytest.approx(sorted(float(getattr(run, axis)) for run in ladder.results), rel=1e-5)
        assert low <= shown[0]
        assert shown[-1] <= high


@pytest.mark.parametrize(
    ("loss", "figures", "shown"),
    [
        (None, None, ("", "", "", "")),
        (2.0, None, ("2.0000", "", "", "")),
        (2.0, {"forecast": 2.05, "interval": [1.9, 2.1]}, ("2.0000", "2.0500", "1.9000 .. 2.1000", "+2.50%")),
        (2.0, {"forecast": 1.9, "interval": [1.8, 1.99]}, ("2.0000", "1.9000", "1.8000 .. 1.9900", "-5.00% miss")),
        (2.0, {"forecast": 2.2, "interval": [2.01, 2.4]}, ("2.0000", "2.2000", "2.0100 .. 2.4000", "+10.00% miss")),
        (None, {"forecast": 2.2, "interval": [2.0, 2.4]}, ("", "2.2000", "2.0000 .. 2.4000", "")),
    ],
)
def test_a_forecast_beside_its_result(
    loss: float | None, figures: dict[str, Any] | None, shown: tuple[str, ...]
) -> None:
    assert forecast_cells(loss, figures) == shown


def test_the_largest_rung_left_out_in_one_line() -> None:
    held = [{"is_inside": True, "relative_error": 0.01}, {"is_inside": False, "relative_error": -0.034}]
    (line,) = backtest_lines({"backtest": {"held_out": held}})
    assert line == "largest rung left out: 1 of 2 inside their 90 % intervals, errors up to 3.40%"
    assert backtest_lines({"backtest": {}}) == backtest_lines(None) == []
