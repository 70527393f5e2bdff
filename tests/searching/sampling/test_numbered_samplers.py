"""Under some samplers a candidate's values depend on the study's seed and its number alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from search_helpers import write_space

from archlab import ConfigError
from archlab.searching.sampling.combinations import Combinations
from archlab.searching.sampling.numbered_samplers import PointSampler, next_number, value_at
from archlab.searching.sampling.suggest import suggest
from archlab.searching.sampling.trial_queue import TrialQueue
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.study.study import enqueue_retries, is_exhausted, mark_interrupted, open_study, record_result
from archlab.searching.study.trial_attrs import set_trial_attrs, trial_attrs

FFN = "model.layers[*].ffn"
CHOICES = {"train.lr": [0.001, 0.01], FFN: ["swiglu", "none"], f"{FFN}.hidden_dim": [8, 16, 24]}  # 8 combinations
RANGES = {**CHOICES, "train.lr": {"low": 0.001, "high": 0.1, "log": True}, "train.beta2": {"low": 0.9, "high": 0.99}}
SPACES = {"random": RANGES, "qmc": RANGES, "brute_force": CHOICES}


def space_of(folder: Path, sampler: Any, vary: dict[str, Any], **more: Any) -> Space:
    study = {"sampler": sampler, "pruner": "none", "storage": "journal"}
    return load_space(write_space(folder, vary=vary, study=study, **more))


class Worker:
    """A worker on a search, which has one trial at a time."""

    def __init__(self, space: Space, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.space, self.folder = space, folder
        self.study = open_study(space, folder)
        self.queue = TrialQueue(self.study, space, 8)

    def ask(self) -> bool:
        """Claim a trial; return whether there was one."""
        trial = self.queue.ask()
        if trial is None:
            return False
        assert isinstance(trial, optuna.Trial)
        self.trial = trial
        return True

    def choose(self) -> None:
        """Choose its values."""
        exhaustive = self.space.study.sampler.type == "brute_force"
        values = suggest(self.trial, self.space.varied, self.space.base, exhaustive=exhaustive)
        set_trial_attrs(self.study, self.trial, {"values": values})

    def end(self) -> None:
        """End it with a result."""
        assert record_result(self.study, self.trial, {"reason": ""}, [1.0], TrialState.COMPLETE)

    def stop(self) -> None:
        """Have it interrupted, to be run again by whoever asks next."""
        (trial,) = [trial for trial in self.study.get_trials() if trial.number == self.trial.number]
        mark_interrupted(self.study, trial, self.folder, by_itself=False)
        enqueue_retries(self.study)

    def run(self) -> None:
        """Run trials until there are none left."""
        while self.ask():
            self.choose()
            self.end()

    def candidates(self) -> dict[int, dict[str, Any]]:
        """Return the parameters of the candidates that have ended, each of which has one such trial."""
        ended = [trial for trial in self.study.get_trials() if trial.state == TrialState.COMPLETE]
        assert Counter(trial_attrs(trial)["candidate"] for trial in ended) == dict.fromkeys(range(len(ended)), 1)
        return {trial_attrs(trial)["candidate"]: trial.params for trial in ended}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", list(SPACES))
def test_workers_that_come_between_each_other_find_what_one_finds_alone(tmp_path: Path, sampler: str) -> None:
    space = space_of(tmp_path, sampler, SPACES[sampler])
    alone, one, other = (Worker(space, tmp_path / name) for name in ("alone", "shared", "shared"))
    alone.run()
    assert one.ask()  # 0
    assert other.ask()  # 1, before anything of 0 is chosen
    other.choose()
    other.end()
    assert other.ask()  # 2
    one.choose()
    one.end()
    assert one.ask()  # 3, of which nothing is chosen
    one.stop()
    assert one.ask()  # 3 again, stopped during its suggestions
    with pytest.raises(KeyboardInterrupt):
        suggest(StoppedAtSecond(one.trial), space.varied, space.base)  # type: ignore[arg-type]
    one.stop()
    other.choose()
    other.stop()
    assert other.ask()  # 2 or 3 again
    other.choose()
    other.end()
    one.run()
    assert one.candidates() == alone.candidates()
    assert len({str(sorted(params.items())) for params in one.candidates().values()}) == 8
    one.queue.total = 9
    assert one.ask() == (sampler != "brute_force")
    assert is_exhausted(one.study) == (sampler == "brute_force")


class StoppedAtSecond:
    """A trial whose process is stopped at the second suggestion."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.count = trial, 0

    def __getattr__(self, name: str) -> Any:
        self.count += 1
        if self.count == 2:
            raise KeyboardInterrupt
        return getattr(self.trial, name)


def test_brute_force_tries_every_combination_once_in_an_order_of_the_seed(tmp_path: Path) -> None:
    space = space_of(tmp_path, "brute_force", CHOICES)
    found = [Combinations(space).get(number) for number in range(9)]
    again = Combinations(space)
    assert [again.get(number) for number in reversed(range(9))][::-1] == found
    assert found.pop() is None
    assert len({str(sorted(each.items())) for each in found if each}) == 8
    sizes = Counter(len(each) for each in found if each)
    assert sizes == {3: 6, 2: 2}, "a knob of a choice that was not made is not a knob"
    space.study.__dict__["seed"] = 1
    assert [Combinations(space).get(number) for number in range(8)] != found


def test_brute_force_does_not_repeat_the_seeds(tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text("base: tiny.yaml\noverride:\n  train.lr: 0.001\n")
    space = space_of(tmp_path, "brute_force", {"train.lr": [0.001, 0.01]}, seeds=["seed.yaml"])
    worker = Worker(space, tmp_path / "s")
    worker.run()
    assert [params["train.lr{0.001,0.01}"] for params in worker.candidates().values()] == [0.001, 0.01]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_brute_force_of_an_earlier_version_ends_where_it_has_tried_everything(tmp_path: Path) -> None:
    worker = Worker(
        space_of(tmp_path, "brute_force", {"train.lr": [0.001, 0.01], FFN: ["swiglu", "none"]}), tmp_path / "s"
    )
    for mark in ("counts_candidates", "numbered_combinations"):  # which its study does not have
        worker.study.set_user_attr(mark, False)
    worker.run()
    tried = [trial_attrs(trial)["values"] for trial in worker.study.get_trials()]
    assert len(tried) == len({str(values) for values in tried}) == 4
    assert is_exhausted(worker.study)


def test_brute_force_needs_an_end(tmp_path: Path) -> None:
    space = space_of(tmp_path, "brute_force", {"train.lr": {"low": 0.1, "high": 0.3, "step": 0.1}, "train.seed": [0]})
    assert sorted(each["train.lr"] for n in range(3) if (each := Combinations(space).get(n))) == [0.1, 0.2, 0.3]  # type: ignore[type-var]
    space = space_of(tmp_path, "brute_force", RANGES)
    with pytest.raises(ConfigError, match=r"vary.train.\w+: brute_force needs a step here, or a list of values"):
        Combinations(space).get(0)


def test_numbers_of_candidates_are_those_that_nobody_has() -> None:
    def trials(*numbers: int | None) -> list[optuna.trial.FrozenTrial]:
        attrs = [{} if number is None else {"candidate": number} for number in numbers]
        return [create_trial(state=TrialState.RUNNING, user_attrs=each) for each in attrs]

    assert [next_number(trials(*numbers)) for numbers in ((), (0, 1), (0, 2), (None, None), (None, 1), (None, 2))] == [
        *(0, 2, 1, 2, 2, 1)
    ]


@pytest.mark.parametrize("options", [{}, {"qmc_type": "halton"}, {"scramble": True}])
def test_points_are_those_of_the_sequence(options: dict[str, Any]) -> None:
    study = optuna.create_study()
    trial = study.ask()
    unit = FloatDistribution(0, 1)

    def point(number: int) -> list[float]:
        sampler = PointSampler(number, 7, options)
        return [sampler.sample_independent(study, trial._cached_frozen_trial, name, unit) for name in "abc"]

    points = [point(number) for number in range(8)]
    assert points == [point(number) for number in reversed(range(8))][::-1]
    for coordinates in zip(*points, strict=True):
        assert len({int(u * 8) for u in coordinates}) >= (8 if options != {"qmc_type": "halton"} else 4)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_points_are_ours_where_no_choice_decides(tmp_path: Path) -> None:
    distributions = {"x": FloatDistribution(1e-4, 1e-1, log=True), "n": IntDistribution(3, 9, step=2)}
    every = {**distributions, "c": CategoricalDistribution(["a", "b", "c"]), "s": FloatDistribution(0, 1, step=0.25)}
    study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=0, warn_independent_sampling=False))
    for number in range(12):
        trial = study.ask(every)
        if number > 0:
            ours = PointSampler(number - 1, 0, {})
            mine = {n: ours.sample_independent(study, trial._cached_frozen_trial, n, d) for n, d in every.items()}
            assert mine.pop("c") == trial.params.pop("c")
            assert mine == pytest.approx({name: trial.params[name] for name in mine}, rel=1e-12)
        study.tell(trial, 1.0)


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (IntDistribution(1, 4), [1, 2, 3, 4]),
        (IntDistribution(1, 4, log=True), [1, 1, 2, 4]),
        (CategoricalDistribution(["a", "b"]), ["a", "a", "b", "b"]),
        (FloatDistribution(0, 3, step=1), [0, 1, 2, 3]),
    ],
)
def test_each_value_has_its_part(distribution: Any, expected: list[Any]) -> None:
    assert [value_at(u, distribution) for u in (0.0, 0.3, 0.7, 0.99999)] == expected
    assert value_at(1.0, distribution) == expected[-1]
