"""What the page of a search says and draws, of searches that are made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import create_trial
from report_cases import DIMS, EMA, VALUE, make_ladder, make_search

from archlab import ArchlabError
from archlab.reporting.comparison import compare_with_baseline, describe_fairness, describe_losses
from archlab.reporting.figures import knobs
from archlab.reporting.figures.axes import knob_axis
from archlab.reporting.figures.chart import Figure, axis, robust_top
from archlab.reporting.figures.costs import Plane, front, planes
from archlab.reporting.figures.curves import learning_curves, thin
from archlab.reporting.figures.laws import law_panels
from archlab.reporting.figures.parallel import parallel_coordinates
from archlab.reporting.figures.rungs import forecast_panels, probabilities, ranks
from archlab.reporting.html import table
from archlab.reporting.importance import MIN_TRIALS, importances
from archlab.reporting.model_layers import layer_lists, letter
from archlab.reporting.pages.model_section import diagram
from archlab.reporting.pages.search_lead import headline
from archlab.reporting.pages.search_page import search_page
from archlab.reporting.pages.search_tables import reasons_table
from archlab.reporting.report import report
from archlab.reporting.search_data import Run, SearchData, short_names


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> SearchData:
    return make_search(tmp_path_factory.mktemp("sixty"), 60, seeds=3)


def test_numbers_are_ordered_as_numbers_and_ranges_are_drawn_as_they_are_sampled(sixty: SearchData) -> None:
    axes = {path: knob_axis(path, path, sixty, sixty.trials) for path in sixty.shown_paths}
    assert axes[DIMS].names == ("2", "4", "8", "16", "32")
    assert axes[EMA].names == ("cema", "ema", "s4d", "none")
    assert axes["train.lr"].to_part()["scale"] == "log"
    assert axes["train.weight_decay"].to_part()["scale"] == "linear"
    assert axes[VALUE].place(sixty.trials[0]) == sixty.trials[0].values[VALUE]


def test_every_trial_is_in_the_parallel_coordinates(sixty: SearchData) -> None:
    chart = parallel_coordinates(sixty)
    assert chart is not None
    rows: Any = chart.spec["rows"]
    axes: Any = chart.spec["axes"]
    assert sorted(row["t"] for row in rows) == list(range(61))
    assert {"pruned", "failed", "infeasible"} <= set(axes[-1]["slots"])
    assert rows[-1]["c"] == "best"


def test_two_losses_noise_and_the_baseline_s_learning_rate_are_shown(sixty: SearchData) -> None:
    comparison = compare_with_baseline(sixty)
    assert comparison is not None
    assert comparison.is_whole
    assert comparison.gain > 0
    assert comparison.margin is not None
    assert comparison.margin == pytest.approx(2 * 0.02 * 2**0.5, rel=0.3)  # of one model each
    assert "more than the" in headline(sixty, comparison)
    assert "during training, on the first 64 tokens of the validation split, the mean of 3" in describe_losses(sixty)
    assert describe_fairness(sixty).startswith("The baseline's learning rate was not tuned: it was trained once")


def test_a_best_trial_that_is_worse_than_the_baseline_is_called_that(tmp_path: Path) -> None:
    data = make_search(tmp_path, 8, is_worse=True)
    text = headline(data, compare_with_baseline(data))
    assert text.startswith("No trial is better than the baseline. The best trial, number ")
    assert "worse, and with one random seed each this may be noise" in text
    assert 'class="lead warning"' in search_page(data)


def test_a_baseline_that_was_tuned_is_named(sixty: SearchData) -> None:
    base = next(run for run in sixty.complete if run is not sixty.best)
    tuned = replace(base, values={**sixty.baseline.values, "train.lr": 0.005})
    trials = [tuned if run is base else run for run in sixty.trials]
    assert f"the base experiment is trial {base.name}: val_loss" in describe_fairness(replace(sixty, trials=trials))


@pytest.mark.slow  # it may be the first to import scikit-learn
def test_importance_is_not_computed_from_few_trials(tmp_path: Path, sixty: SearchData) -> None:
    few = make_search(tmp_path, 7)
    need = f"20 complete trials are needed, and there are {len(few.complete)}."
    assert importances(few) == ({}, f"Importances cannot be computed: {need}")
    shares, problem = importances(sixty)
    assert not problem
    assert max(shares, key=lambda name: shares[name]) == "train.lr"
    assert "PED-ANOVA" in search_page(sixty)


def test_reasons_that_differ_in_numbers_alone_stand_together(sixty: SearchData) -> None:
    text = reasons_table(sixty)
    assert text.count("<tr>") == 1 + 3
    assert "params &lt;= 9000 is violated: params is" in text
    assert "(and alike)" in text


def test_the_front_is_of_trials_that_none_beats_in_both(tmp_path: Path) -> None:
    data = make_search(tmp_path, 60, objectives=3)
    assert [(plane.y, plane.x) for plane in planes(data)] == [
        ("val_loss", "params"),
        ("val_loss", "tokens_per_s"),
        ("params", "tokens_per_s"),
    ]
    plane = Plane("tokens_per_s", "val_loss", -1.0, 1.0)
    members = front(plane, data.complete)
    for run in data.complete:
        beaten = [
            other
            for other in data.complete
            if other.metrics["val_loss"] < run.metrics["val_loss"]
            and other.metrics["tokens_per_s"] > run.metrics["tokens_per_s"]
        ]
        assert (run in members) == (not beaten)


def test_a_diverged_run_leaves_room_for_the_others_and_is_reported(sixty: SearchData) -> None:
    assert robust_top([1.0, 1.1, 1.2, 1.3, 900.0], 1.0) < 3
    assert robust_top([5.0, 6.0, 7.0], -1.0) == 5.0
    found = learning_curves(sixty)
    assert found is not None
    assert "evaluations above" in found[1]
    assert thin([(n, 0.0) for n in range(100)], 5) == [(0, 0.0), (25, 0.0), (50, 0.0), (74, 0.0), (99, 0.0)]
    assert axis("lr", [0.0, 1.0], log=True)["scale"] == "linear"  # zero has no logarithm


def test_numbers_of_a_column_stand_below_each_other_and_keep_their_digits() -> None:
    text = table(["a"], [("", [1.5]), ("", [0.123456789]), ("", [1e-9]), ("", [None])], name="t")
    assert '<td class="n" data-v=1.5>1.500</td>' in text
    assert '<td class="n" data-v=0.12345679>0.123</td>' in text
    assert '<td class="n">1e-09</td>' in text
    assert "<td class=n></td>" in text


def test_layers_that_are_alike_have_one_letter() -> None:
    layer = {"type": "block", "mixer": {"type": "attention"}}
    model = {
        "type": "stack",
        "embedding": {"type": "tokens"},
        "layers": [{"repeat": 2, **layer}],
        "head": {"type": "lm"},
    }
    (found,) = layer_lists(model)
    assert found.layers == (layer, layer)
    assert (found.before, found.after) == (("tokens",), ("lm",))
    assert [letter(n) for n in (0, 25, 26, 27)] == ["A", "Z", "AA", "AB"]


@pytest.mark.slow
def test_a_ladder_s_figures() -> None:
    summary = make_ladder(rungs=4, candidates=3)
    laws, forecasts = law_panels(summary), forecast_panels(summary)
    assert laws is not None
    assert forecasts is not None
    panels: Any = laws.spec["panels"]
    assert [panel["x"]["scale"] for panel in panels] == ["log", "log"]
    marks = [mark["m"] for mark in panels[0]["marks"]]
    assert {"band", "line", "dot", "interval"} == set(marks)
    bands = [mark for mark in panels[0]["marks"] if mark["m"] == "band"]
    assert all(low <= high for band in bands for low, high in zip(band["lo"], band["hi"], strict=True))
    assert ranks(summary) is not None
    assert probabilities(summary) is not None
    plain = make_ladder(rungs=2, has_target=False)
    assert law_panels(plain) is not None


def running(data: SearchData, trials: Sequence[Run] = ()) -> SearchData:
    """Return a search whose baseline is still running, with some of its trials."""
    baseline = replace(data.baseline, state="running", metrics={}, curve=[], place="")
    return replace(data, baseline=baseline, trials=list(trials), study=optuna.create_study(), summary=None)


def test_a_search_that_has_just_begun_has_a_page_without_figures(sixty: SearchData) -> None:
    data = running(sixty)
    text = search_page(data)
    assert "The search has not ended; this is its state now." in text
    assert "No trial is complete yet." in text
    assert "All workers together used" not in text
    assert "<figure" not in text
    assert headline(replace(data, summary=sixty.summary), None) == "No trial has been completed."


def test_without_a_baseline_there_is_nothing_to_compare_with(sixty: SearchData) -> None:
    data = replace(running(sixty, sixty.trials), study=sixty.study)
    assert compare_with_baseline(data) is None
    assert headline(data, None).endswith(". There is no baseline to compare it with.")
    assert headline(data, None).startswith("The search has not ended. So far: the best trial, number ")
    assert compare_with_baseline(running(sixty)) is None


def test_a_component_without_knobs_is_the_same_under_its_name(sixty: SearchData) -> None:
    base = next(run for run in sixty.complete if run is not sixty.best)
    values: dict[str, Any] = {**sixty.baseline.values, "train.lr": 0.005}
    found = []
    for ema in ("cema", {"type": "cema"}, {"type": "cema", "num_dims": 99}):
        trials = [replace(run, values={**values, EMA: ema}) if run is base else run for run in sixty.trials]
        found.append(f"the base experiment is trial {base.name}" in describe_fairness(replace(sixty, trials=trials)))
    assert found == [True, True, False]


def test_of_many_choices_those_with_the_best_results_are_shown(
    sixty: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs, "_MOST", 2)
    found = knobs.knob_panels(sixty)
    assert found is not None
    chart, note = found
    short, panels = short_names(sixty.shown_paths), {panel["title"]: panel for panel in _panels(chart)}
    axes = [knob_axis(path, short[path], sixty, sixty.complete) for path in sixty.shown_paths]
    cut = [each for each in axes if not each.is_numeric]
    assert note == f"Of {', '.join(each.label for each in cut)} the 2 choices with the best results are shown."
    for each in cut:
        losses = {
            name: min(run.metrics["val_loss"] for run in sixty.complete if each.place(run) == place)
            for place, name in enumerate(each.names)
        }
        assert panels[each.label]["y"]["values"] == sorted(losses, key=lambda name: losses[name])[:2]


def _panels(chart: Figure) -> Any:
    return chart.spec["panels"]


def test_a_value_that_is_not_finite_is_beyond_the_axis(tmp_path: Path) -> None:
    data = make_search(tmp_path, 20, objectives=3)
    run = next(run for run in data.complete if run is not data.best)
    lost = replace(run, metrics={**run.metrics, "tokens_per_s": math.nan})
    chart = parallel_coordinates(replace(data, trials=[lost if each is run else each for each in data.trials]))
    assert chart is not None
    rows: Any = chart.spec["rows"]
    axes: Any = chart.spec["axes"]
    (row,) = (row for row in rows if row["t"] == int(run.name) + 1)
    assert row["v"][-1] == "worse"
    assert "worse" in axes[-1]["slots"]


@pytest.mark.slow  # it may be the first to import scikit-learn
def test_trials_without_a_knob_have_no_importances(sixty: SearchData) -> None:
    study = optuna.create_study()
    for _ in range(MIN_TRIALS):
        study.add_trial(create_trial(value=1.0))
    data = replace(sixty, study=study, trials=[sixty.complete[0]] * MIN_TRIALS)
    assert importances(data) == ({}, "Importances cannot be computed: the trials differ too little.")


def test_a_model_without_layers_has_no_diagram() -> None:
    assert diagram({"model": {"type": "stack", "layers": []}}) == ""
    assert diagram({"model": {"type": "mine", "dim": 3}}) == ""


def test_a_ladder_without_losses_has_no_figures(tmp_path: Path) -> None:
    one = make_ladder(rungs=1, candidates=2, has_target=False)
    assert ranks(one) is None
    assert forecast_panels(one) is None
    lost = [replace(run, loss=None, reason="loss is nan") for run in one.results]
    empty = replace(one, results=lost, rungs=[replace(rung, losses={}, decision=None) for rung in one.rungs])
    assert law_panels(empty) is None
    (tmp_path / "search.yaml").write_text("rungs: []\n")
    with pytest.raises(ArchlabError, match=r"its first rung is not complete, so that there is nothing to report yet$"):
        report(tmp_path)
    empty.write(tmp_path)
    text = report(tmp_path).read_text()
    assert "Dropped out" in text
    assert "rung 1: loss is nan" in text
    assert "4 without a loss" in text
    replace(one, failed={}).write(tmp_path)
    assert "Dropped out" not in report(tmp_path).read_text()


def test_laws_of_another_version_are_left_out_and_the_losses_drawn() -> None:
    one = make_ladder(rungs=1, candidates=2, has_target=False)
    fit = {"target": {"params": 1e9, "tokens": 2e10}, "candidates": [{"candidate": "no longer there"}]}
    for stored in (fit, {**fit, "candidates": [{"candidate": "llama"}]}):
        laws = law_panels(replace(one, fit=stored))
        assert laws is not None
        panels: Any = laws.spec["panels"]
        assert {mark["m"] for mark in panels[0]["marks"]} == {"line", "dot"}
