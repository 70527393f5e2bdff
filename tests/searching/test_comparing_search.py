"""A search that compares choices: what each is given, and the same answer however often it is killed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, create_trial
from search_helpers import pretend, replace_costs, replace_training, search, trials_of, write_space

import archlab.searching.study.study
import archlab.searching.trials.train_trial
import archlab.searching.worker
from archlab.config.experiment import Experiment
from archlab.errors import TrainingError
from archlab.searching.results.choices import BEST, UNKNOWN, WITHIN, WORSE, choice_results
from archlab.searching.space.dominance import DominanceConfig
from archlab.searching.space.load_space import load_space
from archlab.searching.study.dominance_judge import DominanceJudge
from archlab.searching.study.study import is_interrupted
from archlab.searching.trials import candidate_runs

EMA, NORM = "model.layers[*].mixer.ema", "model.layers[*].norm"
OFFSET = {"cema": 1.0, "ema": 1.2, "s4d": 1.1, "none": 2.0}
LR = {"low": 1e-3, "high": 1e-1, "log": True}
COSTS = SimpleNamespace(to_dict=lambda: {"params": 5, "flops_per_token": 7, "tokens_per_step": 32})


def loss_of(experiment: Experiment) -> float:
    ema = experiment.model.to_plain()["layers"][0]["mixer"]["ema"]["type"]
    return OFFSET[ema] + abs(math.log10(experiment.train.lr) + 2) + 0.01 * experiment.train.seed


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(loss: Callable[[Experiment], float] = loss_of) -> None:
        replace_training(monkeypatch, pretend(loss=loss))

    replace_costs(monkeypatch, COSTS)
    install()
    return install


def outcome(folder: Path) -> list[tuple[Any, ...]]:
    """Return what the candidates of a search are and have shown, without how often they were started."""
    ended = [trial for trial in trials_of(folder) if not is_interrupted(trial)]
    keys = ("choice", "values", "tuned", "repeat", "seed_metrics", "runs")
    return [(trial.state, trial.values, *(trial.user_attrs.get(key) for key in keys)) for trial in ended]


def comparing(folder: Path) -> Path:
    return write_space(
        folder,
        vary={EMA: ["ema", "s4d"], NORM: ["rms", "layer"], "train.clip": {"low": 0.5, "high": 2.0}},
        compare=EMA,
        inner={"train.lr": LR, "trials": 2},
        study={"trials": 7, "runs_per_trial": 2},
    )


@pytest.mark.slow
def test_each_choice_gets_as_many_trials_and_its_own_tuning(tmp_path: Path, fake: Any) -> None:
    result = search(comparing(tmp_path), tmp_path / "s")
    trials = trials_of(tmp_path / "s")
    given = Counter(trial.user_attrs["choice"].count("cema") or trial.user_attrs["values"][EMA] for trial in trials)
    assert given == {"ema": 1, "s4d": 3, 1: 3}, "the base's own choice is the third; 3 x 1, then 2 x 2"
    first = trials[0].user_attrs
    assert (first["values"][NORM], first["values"]["train.clip"]) == ("rms", 1.0), "else as the base experiment"
    assert [run["values"]["train.lr"] for run in first["runs"]] == pytest.approx([10**-2.5, 10**-1.5], rel=1e-4)
    assert first["seed_metrics"]["val_loss"][1] - first["seed_metrics"]["val_loss"][0] == pytest.approx(0.0125)
    table = result.summary.choices[0]
    assert [row["choice"] for row in table["choices"]] == ["cema", "s4d", "ema"]
    assert [row["verdict"] for row in table["choices"]] == [BEST, WORSE, WORSE]
    assert [row["runs"] for row in table["choices"]] == [9, 9, 3]
    assert (tmp_path / "s" / "best" / "model.safetensors").is_file()
    weights = {path.parent.name for path in (tmp_path / "s" / "trials").rglob("final")}
    assert weights == {f"{result.best_trial:04d}"}, "of one run of one trial"


class Killed(BaseException):
    """Ends a process without a word: nothing that handles errors does anything for it."""


# What is called for the how-many-th time since the last kill, and whether it is done before.
KILL_AT = [
    (optuna.Study, "enqueue_trial", 1, True),
    (optuna.Study, "ask", 1, True),
    (archlab.searching.worker, "choose_values", 1, True),
    (archlab.searching.trials.train_trial, "train", 2, False),
    (archlab.searching.trials.train_trial, "train", 1, True),
    (candidate_runs, "delete_weights", 5, True),
    (candidate_runs.CandidateRuns, "_publish", 2, True),
    (archlab.searching.worker, "record_result", 1, False),
    (archlab.searching.worker, "record_result", 1, True),
    (archlab.searching.worker, "publish_best", 2, False),
]


@pytest.mark.slow
def test_a_search_that_is_killed_has_the_same_candidates_and_values(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = comparing(tmp_path)
    monkeypatch.setattr(archlab.searching.study.study, "MAX_ATTEMPTS", 99)
    search(file, tmp_path / "whole")
    for owner, name, number, is_done in KILL_AT:
        with monkeypatch.context() as patch:
            _kill_at(patch, owner, name, number, is_done)
            with pytest.raises(Killed):
                search(file, tmp_path / "parts")
    search(file, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def _kill_at(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int, is_done: bool) -> None:
    original, calls = getattr(owner, name), iter(range(1, 1000))

    def call(*args: Any, **options: Any) -> Any:
        is_last = next(calls) == number
        if is_last and not is_done:
            raise Killed
        value = original(*args, **options)
        if is_last:
            raise Killed
        return value

    def killed(*args: Any, **options: Any) -> None:
        raise Killed

    patch.setattr(owner, name, call)
    patch.setattr(archlab.searching.worker, "leave_open", killed)


@pytest.mark.slow
def test_a_setting_that_cannot_be_trained_costs_the_candidate_nothing(tmp_path: Path, fake: Any) -> None:
    def loss(experiment: Experiment) -> float:
        if experiment.train.lr > 0.02:
            raise TrainingError("the loss is nan")
        return loss_of(experiment)

    fake(loss)
    inner = {"train.lr": LR, "trials": 2}
    search(write_space(tmp_path, vary={EMA: ["cema"]}, inner=inner), tmp_path / "s", trials=1)
    (trial,) = trials_of(tmp_path / "s")
    assert trial.user_attrs["tuned"]["train.lr"] == pytest.approx(10**-2.5, rel=1e-4)
    assert [run["reason"] for run in trial.user_attrs["runs"]] == ["", "the loss is nan"]


@pytest.mark.slow
def test_repeated_candidates_have_other_seeds_and_measure_the_noise(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, vary={EMA: ["cema", "s4d"]}, compare=EMA, study={"trials": 6})
    summary = search(file, tmp_path / "s").summary
    seeds = [load_seed(tmp_path / "s", trial.number) for trial in trials_of(tmp_path / "s")]
    assert seeds == [0, 0, 1, 1, 2, 2]
    table = summary.choices[0]
    assert table["noise"] == pytest.approx(0.0125)
    assert [row["verdict"] for row in table["choices"]] == [BEST, WORSE]


def load_seed(folder: Path, number: int) -> int:
    return int(trials_of(folder)[number].user_attrs["repeat"])


@pytest.mark.slow
def test_seeds_are_tried_first(tmp_path: Path, fake: Any) -> None:
    (tmp_path / "known.yaml").write_text(f"base: tiny.yaml\noverride: {{{EMA!r}: none, train.lr: 0.05}}\n")
    file = write_space(tmp_path, vary={EMA: ["cema", "none"], "train.lr": LR}, seeds=["known.yaml"])
    search(file, tmp_path / "s", trials=2)
    first, second = trials_of(tmp_path / "s")
    assert first.user_attrs["values"] == {"train.lr": 0.05, EMA: "none"}
    assert first.user_attrs["seed_of"].endswith("known.yaml")
    assert "seed_of" not in second.user_attrs


@pytest.mark.slow
def test_the_weights_of_the_best_are_kept_and_a_budget_ends_the_search(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, study={"pruner": "none", "keep": {"best": 2}})
    search(file, tmp_path / "s", trials=4)
    ranked = sorted(trials_of(tmp_path / "s"), key=lambda trial: trial.value or 0)
    kept = {int(path.parent.name) for path in (tmp_path / "s" / "trials").glob("*/final")}
    assert kept == {trial.number for trial in ranked[:2]}
    budget = {"budget": {"tokens": 5 * 4 * 32}}  # five runs of 4 steps of 32 tokens, of which the baseline is one
    search(file, tmp_path / "s", [f"study.budget={budget['budget']}".replace("'", "")], trials=9)
    assert len(trials_of(tmp_path / "s")) == 4


def test_a_difference_within_noise_is_called_that(tmp_path: Path) -> None:
    space = load_space(write_space(tmp_path, vary={EMA: ["cema", "ema", "s4d"]}))

    def trial(choice: str, *values: float) -> FrozenTrial:
        mean = sum(values) / len(values)
        own = {"values": {EMA: choice, "of": mean}, "metrics": {"val_loss": mean}}
        attrs = {**own, "seed_metrics": {"val_loss": list(values)}, "repeat": 0}
        return create_trial(value=mean, user_attrs=attrs)

    noisy = [trial("cema", 1.0, 1.1, 1.2), trial("ema", 1.05, 1.15, 1.25), trial("s4d", 1.9, 2.0, 2.1)]
    (result,) = choice_results(space, noisy)
    assert result.noise == pytest.approx(0.1)
    assert {row.choice: row.verdict for row in result.choices} == {"cema": BEST, "ema": WITHIN, "s4d": WORSE}
    (unknown,) = choice_results(space, [trial("cema", 1.0), trial("ema", 1.1), trial("ema", 1.3)])
    assert {row.choice: row.verdict for row in unknown.choices} == {
        "cema": BEST,
        "ema": UNKNOWN,
        "s4d": "none complete",
    }
    assert "study.runs_per_trial=3 would measure it" in unknown.notes[0]
    assert "not tried equally often" in unknown.notes[1]


def test_choices_of_a_knob_that_the_base_lacks_are_those_that_were_tried(tmp_path: Path) -> None:
    mixer = "model.layers[*].mixer"
    size, speed = f"{mixer}.state_dim", f"{mixer}.dt_min"
    vary = {mixer: ["gla", "mamba2"], size: [4, 8, 16], speed: {"low": 1e-4, "high": 1e-2}}
    space = load_space(write_space(tmp_path, vary=vary))
    tried: list[dict[str, Any]] = [{size: 8, speed: 1e-3}, {size: 4, speed: 2e-3}, {size: 8, speed: 3e-3}]
    values = [{mixer: "gla"}, *({mixer: "mamba2", **own} for own in tried)]
    trials = [
        create_trial(value=loss, user_attrs={"values": own, "metrics": {"val_loss": loss}})
        for loss, own in zip((3.0, 2.0, 1.0, 1.5), values, strict=True)
    ]
    found = {result.path: [row.choice for row in result.choices] for result in choice_results(space, trials)}
    assert found == {mixer: ["mamba2", "gla"], size: ["4", "8"]}
    assert [result.path for result in choice_results(space, trials[:2])] == [mixer]  # of one size there is no choice


def test_what_is_dominated_at_equal_tokens_is_pruned() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    objectives = {"val_loss": "minimize", "params": "minimize"}

    def judge(params: int, **options: int) -> DominanceJudge:
        trial, costs = study.ask(), {"params": params, "tokens_per_step": 10}
        trial.set_user_attr("costs", costs)
        return DominanceJudge(study, trial, DominanceConfig(**options), objectives, costs)

    for params, value in ((5, 1.0), (6, 1.1), (9, 0.5)):
        judge(params, n_startup_trials=1).report(value, 2)
    options = {"n_startup_trials": 3, "n_dominating": 2}
    verdicts = {}
    for params, value, step in ((7, 1.2, 2), (7, 1.05, 2), (4, 3.0, 2), (7, 1.2, 3)):
        judged = judge(params, **options)
        judged.report(value, step)
        verdicts[params, value, step] = judged.should_prune()
        study.tell(judged.trial, state=optuna.trial.TrialState.PRUNED)
    assert verdicts == {(7, 1.2, 2): True, (7, 1.05, 2): False, (4, 3.0, 2): False, (7, 1.2, 3): False}
