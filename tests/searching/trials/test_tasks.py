"""Candidates that are trained on several tasks, and judged by the means of their metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from search_helpers import pretend, replace_training, search, write_space

from archlab.config.experiment import Experiment
from archlab.errors import ConfigError
from archlab.searching.ladder.config import parse_ladder
from archlab.searching.space.load_space import load_space
from archlab.searching.study.study import is_interrupted, open_study
from archlab.storage.trained_model import load_trained

TASKS = {"short": {"train.context": 8}, "long": {"train.context": 16, "train.batch_size": 1}}


def loss_of(experiment: Experiment) -> float:
    return experiment.train.context + experiment.train.lr


def space(folder: Path, **keys: Any) -> Path:
    return write_space(folder, **{"tasks": TASKS, "study": {"trials": 2, "sampler": "random"}, **keys})


def results(folder: Path) -> list[Any]:
    trials = open_study(load_space(folder / "search.yaml", recorded=True), folder).get_trials()
    return [(trial.values, trial.user_attrs["tasks"]) for trial in trials if not is_interrupted(trial)]


@pytest.mark.slow
def test_a_trial_has_the_means_of_its_tasks_and_the_model_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_training(monkeypatch, pretend(loss=loss_of))
    result = search(space(tmp_path), tmp_path / "s")
    for (value,), tasks in results(tmp_path / "s"):
        assert tasks["long"]["val_loss"] - tasks["short"]["val_loss"] == pytest.approx(8 * (1 + 1 / 4))
        assert value == pytest.approx((tasks["long"]["val_loss"] + tasks["short"]["val_loss"]) / 2)
    experiment, _ = load_trained(result.folder / "best")
    assert experiment.train.context == 8
    assert not result.summary.baseline.validation, "one task's metrics beside means of all"
    left = [path for path in (tmp_path / "s").rglob("final") if path.parents[1].name == "tasks"]
    assert not left, "weights of the other tasks"
    search(space(tmp_path), tmp_path / "s", force=True)  # every file is archlab's own


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["short", "long"])
def test_what_a_killed_trial_had_trained_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    trained: list[str] = []
    kills: list[str] = []

    class Killed(BaseException):
        pass

    def train(experiment: Experiment, folder: Path, **options: Any) -> Any:
        name = "/".join(folder.relative_to(tmp_path).parts[1:])
        trained.append(name)
        if name in kills:
            kills.remove(name)
            raise Killed
        return pretend(loss=loss_of)(experiment, folder, **options)

    inner = {"train.lr": {"low": 0.01, "high": 0.1, "log": True}, "trials": 2}
    file = space(tmp_path, inner=inner, vary={"train.clip": {"low": 0.5, "high": 2.0}})
    replace_training(monkeypatch, train)
    search(file, tmp_path / "whole")
    trained.clear()
    kills.append(f"trials/0001/tasks/{killed_in}/runs/1")
    with pytest.raises(Killed):
        search(file, tmp_path / "parts")
    search(file, tmp_path / "parts")
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    ends = [name.split("tasks/")[1] for name in trained if "trials/0001" in name or "trials/0002" in name]
    assert len(ends) == 5, "four runs, of which one was started twice"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"tasks": []}, "tasks: \\[\\] is not a mapping of names"),
        ({"tasks": {"a/b": {}}}, "tasks: 'a/b' is not a name"),
        ({"tasks": {"a": {"train.lr": 0.1}}}, "tasks.a.train.lr: is varied"),
        ({"tasks": {"a": {"train.contex": 8}}}, "did you mean.*context"),
        ({"tasks": {"a": {"task": "in_contxt_recall"}}}, "tasks.a.task: .*in_context_recall"),
        ({"study": {"pruner": "median"}}, "study.pruner"),
        ({"objectives": {"val_accuracy": "maximize"}}, "no metric 'val_accuracy'"),
    ],
)
def test_tasks_that_cannot_be_are_refused_by_name(tmp_path: Path, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_space(space(tmp_path, **keys))


def test_an_objective_is_a_metric_of_every_task(tmp_path: Path) -> None:
    small = {"model.vocab_size": 16, "train.context": 16}
    recall = {
        "a": {"task": "in_context_recall", **small},
        "b": {"task": "noisy_recall", **small, "model.vocab_size": 32},
    }
    objectives = {"val_accuracy": "maximize"}
    assert load_space(space(tmp_path, tasks=recall, objectives=objectives)).objective == "val_accuracy"
    with pytest.raises(ConfigError, match="val_accuracy"):
        load_space(space(tmp_path, tasks={**recall, "text": {"train.context": 8}}, objectives=objectives))


@pytest.mark.parametrize("key", ["tasks", "inner", "seeds"])
def test_a_ladder_refuses_what_it_would_not_do(tmp_path: Path, key: str) -> None:
    values = {"tasks": TASKS, "inner": {"train.lr": [0.1, 0.2], "trials": 2}, "seeds": ["tiny.yaml"]}
    file = write_space(tmp_path, vary={"train.clip": [1.0, 2.0]}, rungs=[{"params": 5000, "tokens_per_param": 1}])
    plain = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**plain, key: values[key]}))
    with pytest.raises(ConfigError, match=f"{key}: is of a search at one size"):
        parse_ladder(load_space(file))
