"""The budget of a comparison: who gets how many trials, and in what order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from search_helpers import write_space

from archlab import ConfigError
from archlab.searching.sampling.rounds import Turn, Wait, next_turn
from archlab.searching.sampling.trial_queue import TrialQueue
from archlab.searching.space.compare import Arm, arms, plan_rounds
from archlab.searching.space.load_space import load_space
from archlab.searching.study.study import open_study

ARMS = [Arm(name, {"x": name}) for name in "abcde"]
LOSS = {"a": 5.0, "b": 1.0, "c": 4.0, "d": 2.0, "e": 3.0}
EMA = "model.layers[*].mixer.ema"
EACH, MIXER = "model.layers[each].norm", "model.layers[*].mixer"
STATE = f"{MIXER}.state_dim"


def trial_of(arm: str, value: float | None, number: int = 0, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    attrs = {"choice": arm, "values": {"n": number}, "repeat": 0, "metrics": {"loss": value}}
    return create_trial(state=state, value=value, user_attrs=attrs)


def turns(total: int) -> list[str]:
    """Return whose turns a search of `total` trials gives, each finished before the next."""
    trials: list[FrozenTrial] = []
    while isinstance(turn := next_turn(ARMS, trials, total, "loss", 1.0), Turn):
        label = turn.arm.label
        trials.append(trial_of(label, LOSS[label] + 0.01 * turn.index, turn.index))
    return [trial.user_attrs["choice"] for trial in trials]


@pytest.mark.parametrize(
    ("trials", "choices", "expected"),
    [
        (20, 9, [(9, 1), (5, 1), (3, 1), (2, 1)]),
        (8, 5, [(5, 1), (3, 1)]),
        (8, 8, [(8, 1)]),
        (100, 9, [(9, 2), (5, 5), (3, 9), (2, 15)]),
        (7, 2, [(2, 3)]),
        (4, 1, [(1, 4)]),
    ],
)
def test_trials_are_divided_evenly(trials: int, choices: int, expected: list[tuple[int, int]]) -> None:
    rounds = plan_rounds(trials, choices)
    assert [(each.choices, each.trials) for each in rounds] == expected
    assert sum(each.choices * each.trials for each in rounds) <= trials


def test_too_few_trials_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"study.trials: 4 are too few to compare 5 choices"):
        plan_rounds(4, 5)


def test_every_choice_is_tried_and_the_better_half_gets_more() -> None:
    order = turns(15)  # 5 choices x 1, then 3 x 1, then 2 x 3
    assert order[:5] == list("abcde")
    assert order[5:8] == ["b", "d", "e"]
    assert Counter(order[8:]) == {"b": 3, "d": 3}


def test_a_search_may_grow() -> None:
    trials = [trial_of(label, LOSS[label]) for label in turns(5)]
    turn = next_turn(ARMS, trials, 15, "loss", 1.0)
    assert isinstance(turn, Turn)
    assert (turn.arm.label, turn.index, turn.round) == ("b", 1, 1)


def test_a_choice_that_is_certain_to_go_on_does_not_wait_for_the_others() -> None:
    done = [trial_of(label, LOSS[label]) for label in "abcd"]
    running = create_trial(state=TrialState.RUNNING, user_attrs={"choice": "e"})
    turn = next_turn(ARMS, [*done, running], 15, "loss", 1.0)
    assert isinstance(turn, Turn)
    assert turn.arm.label == "b", "two of three places are taken by b and d, whatever e shows"
    more = [trial_of("b", 1.0, 1), trial_of("d", 2.0, 1)]
    assert next_turn(ARMS, [*done, running, *more], 15, "loss", 1.0) is Wait.FOR_RUNNING_TRIALS


def test_a_choice_whose_trials_all_fail_ranks_last() -> None:
    trials = [trial_of(label, LOSS[label]) for label in "acde"]
    trials.append(create_trial(state=TrialState.FAIL, user_attrs={"choice": "b"}))
    turn = next_turn(ARMS, trials, 15, "loss", 1.0)
    assert isinstance(turn, Turn)
    assert turn.arm.label == "c"


def test_the_base_s_own_choice_is_compared_too(tmp_path: Path) -> None:
    vary: dict[str, Any] = {EMA: ["ema", "none"], "train.lr": [0.01, 0.1]}
    space = load_space(write_space(tmp_path, vary=vary, compare=EMA))
    assert [arm.values[EMA] for arm in arms(space.compare, space.vary)] == [
        "ema",
        "none",
        {"type": "cema", "num_dims": 4},
    ]
    same = load_space(write_space(tmp_path, vary={EMA: ["cema", "none"]}, compare=[EMA]))
    assert len(arms(same.compare, same.vary)) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"compare": "train.lrr"}, r"compare: train.lrr is not varied; did you mean 'train.lr'\?"),
        ({"compare": "train.lr"}, "compare: train.lr has a range"),
        ({"compare": 3}, "compare: 3 is not a varied path"),
        ({"compare": [EMA, EMA]}, "compare: names a path twice"),
        ({"compare": EACH, "vary": {EACH: ["rms", "layer"]}}, r"\[each\].norm is of single layers, not one choice"),
        ({"compare": STATE, "vary": {MIXER: ["gla", "mamba2"], STATE: [4, 8]}}, "has no list of choices in the base"),
        ({"seeds": ["tiny.yaml", "tiny.yaml"]}, "seeds: names an experiment twice"),
        ({"compare": EMA, "study": {"sampler": "brute_force"}}, "study.sampler: brute_force cannot search each choice"),
        ({"compare": EMA, "study": {"pruner": "hyperband"}}, "study.pruner: hyperband cannot judge each choice"),
        ({"compare": EMA, "study": {"trials": 1}}, "study.trials: 1 are too few"),
        ({"seeds": "llama2_tiny"}, "seeds: 'llama2_tiny' is not a list"),
        ({"seeds": ["llama2_tinny"]}, r"seeds\[0\]: no experiment 'llama2_tinny'; did"),
        ({"seeds": ["llama2_tiny"]}, r"seeds\[0\]: llama2_tiny is not a trial of this space: model.layers"),
        ({"study": {"budget": {"days": 1}}}, "study.budget: unknown key 'days'"),
        ({"study": {"budget": {"hours": 0}}}, "study.budget.hours: 0.0 is not above 0"),
        ({"study": {"keep": 3}}, r"study.keep: 3 is not a mapping such as \{best: 5\}"),
        ({"study": {"runs_per_trial": 0}}, "study.runs_per_trial: 0 is not at least 1"),
        ({"study": {"pruner": "domminated"}}, r"no pruner 'domminated'; did you mean 'dominated'\?"),
        (
            {"objectives": {"val_loss": "minimize", "tokens_per_s": "maximize"}, "study": {"pruner": "dominated"}},
            "study.pruner: dominated cannot judge tokens_per_s before a trial ends",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    vary = {EMA: ["cema", "none"], "train.lr": {"low": 0.001, "high": 0.1}}
    with pytest.raises(ConfigError, match=message):
        load_space(write_space(tmp_path, **{"vary": vary, **asked}))


@pytest.mark.slow
def test_the_next_round_waits_for_the_trials_that_run(tmp_path: Path) -> None:
    vary = {EMA: ["cema", "none", "ema"], "train.lr": {"low": 0.001, "high": 0.1}}
    space = load_space(write_space(tmp_path, vary=vary, compare=EMA, study={"trials": 5}))
    study = open_study(space, tmp_path)
    queue, begun = TrialQueue(study, space, 5), list[Trial]()
    while isinstance(trial := queue.ask(), Trial):
        begun.append(trial)
    assert (trial, len(begun)) == (Wait.FOR_RUNNING_TRIALS, 3)
    for loss, own in enumerate(begun):
        own.set_user_attr("values", {EMA: own.user_attrs["choice"]})
        own.set_user_attr("metrics", {"val_loss": float(loss)})
        study.tell(own, float(loss))
    again = [queue.ask() for _ in range(2)]
    assert [each.user_attrs["choice"] for each in again if isinstance(each, Trial)] == [
        own.user_attrs["choice"] for own in begun[:2]
    ]
    assert queue.ask() is None


@pytest.mark.slow
def test_more_seeds_of_a_choice_than_it_gets_trials_are_refused(tmp_path: Path) -> None:
    for name, lr in (("one", 0.01), ("two", 0.02), ("three", 0.03)):
        (tmp_path / f"{name}.yaml").write_text(f"base: tiny.yaml\noverride: {{{EMA!r}: none, train.lr: {lr}}}\n")
    vary = {EMA: ["cema", "none"], "train.lr": {"low": 0.001, "high": 0.1}}
    seeds = ["one.yaml", "two.yaml", "three.yaml"]
    space = load_space(write_space(tmp_path, vary=vary, compare=EMA, seeds=seeds, study={"trials": 6}))
    study = open_study(space, tmp_path)
    assert TrialQueue(study, space, 6).ask() is not None  # three of each choice
    problem = "seeds: one.yaml, two.yaml, three.yaml are of one choice, which gets 2 of 4 trials at first"
    with pytest.raises(ConfigError, match=f"space.yaml: {problem}"):
        TrialQueue(study, space, 4)


def test_a_space_of_an_earlier_version_is_the_same_search(tmp_path: Path) -> None:
    plain = load_space(write_space(tmp_path)).to_plain()
    assert list(plain) == ["format", "base", "vary", "objectives", "study"]
    assert plain["study"] == {"sampler": {"type": "tpe"}, "trials": 20, "seed": 0}
