"""A ladder beside other processes, after a stop, and with files that are damaged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ladder_helpers import RUNGS, climb, losses_in, pretend, write_ladder

from archlab.config.experiment import Experiment, load
from archlab.errors import ArchlabError
from archlab.searching.ladder import capacity, plan_rungs, train_runs
from archlab.searching.ladder.callbacks import LadderCallback
from archlab.searching.ladder.candidates import all_candidates
from archlab.searching.ladder.config import Ladder, parse_ladder
from archlab.searching.ladder.plan_rungs import TOO_LATE, plan_rung
from archlab.searching.ladder.rehearsal import as_rehearsal
from archlab.searching.ladder.sizes import size_of
from archlab.searching.space.load_space import load_space
from archlab.searching.trials import train_trial
from archlab.storage.locks import lock
from archlab.training.trainer import TrainResult

ONE_RUNG = [{"set": {"model.dim": 16}, "tokens": 320, "seeds": 2}]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train nothing, and trace no costs, which takes most of the time."""
    monkeypatch.setattr(train_trial, "train", pretend())
    monkeypatch.setattr(plan_rungs, "estimate_cost", _cost)
    monkeypatch.setattr(
        capacity, "plan", lambda *_, **__: SimpleNamespace(memory_per_device=1, seconds_per_update=1e-3)
    )


def _cost(experiment: Experiment) -> SimpleNamespace:
    return SimpleNamespace(params_non_embedding=size_of(experiment), flops_per_token=6.0 * size_of(experiment))


@pytest.mark.slow
def test_a_rung_of_another_machine_is_written_with_its_branches(tmp_path: Path) -> None:
    rungs = [{"set": {"model.dim": 16}, "tokens": 3200, "elsewhere": True}]
    keys: dict[str, Any] = {"candidates": {"a": {}}, "rungs": rungs, "branches": [0.5, 1.0]}
    result = climb(write_ladder(tmp_path, **keys), tmp_path / "out")
    assert result.waiting == result.summary.waiting == "rung 1 is to be trained elsewhere"
    files = sorted((tmp_path / "out/launch/rung_1").iterdir())
    assert [file.stem for file in files] == ["a_seed_0", "a_seed_0_at_0.5"]
    trunk, branch = map(load, files)
    start = branch.train.start_from
    assert start is not None
    assert (start.checkpoint, [start.step]) == ("runs/a_seed_0", trunk.train.checkpoint_at)
    assert branch.description == "its run belongs into rungs/1/a/seed_0_at_0.5"


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, waited, ended = tmp_path / "out", list[float](), list[str]()
    run = out / "rungs/1/averages/seed_1"
    held = lock(run / "lock", wait=False)

    class Beside(LadderCallback):
        def on_rung(self, *of_rung: object) -> None:
            assert held.__enter__()

        def on_result(self, label: str, loss: float | None, reason: str) -> None:
            ended.append(label)

    def finish_there(seconds: float) -> None:
        waited.append(seconds)
        pretend()(load(out / "rungs/1/averages/experiment.yaml", ["train.seed=1"]), run)
        held.__exit__(None, None, None)

    monkeypatch.setattr(train_runs, "time", SimpleNamespace(sleep=finish_there))
    summary = climb(write_ladder(tmp_path, rungs=ONE_RUNG), out, callbacks=[Beside()]).summary
    assert waited == [train_runs._POLL_S]
    assert ended == ["rung 1: megalodon seed 0", "rung 1: megalodon seed 1", "rung 1: averages seed 0"]
    assert len(summary.results) == 4
    assert not summary.failed


@pytest.mark.slow
def test_a_run_that_is_stopped_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, train, calls = write_ladder(tmp_path, rungs=ONE_RUNG), pretend(), iter(range(9))

    def stop(experiment: Experiment, folder: Path, **options: Any) -> TrainResult:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return train(experiment, folder, **options)

    monkeypatch.setattr(train_trial, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        climb(file, tmp_path / "out")
    assert not list(tmp_path.glob("out/rungs/1/*/*/result.json"))
    climb(file, tmp_path / "out")
    climb(file, tmp_path / "whole")
    assert losses_in(tmp_path / "out") == losses_in(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("costs.json", '{"params": null, "flops_per_token": 1}', "costs.json: holds no costs of an experiment"),
        ("costs.json", "{", "costs.json: is not the costs of an experiment"),
        ("experiment.yaml", "model: {", "experiment.yaml: "),
        ("seed_0/result.json", "{}", "result.json: has no reason why the run failed"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    keys: dict[str, Any] = {"vary": {"train.clip": [0.5, 1.0]}, "candidates": None, "rungs": ONE_RUNG}
    file, out = write_ladder(tmp_path, **keys, study={"sampler": "random", "trials": 1}), tmp_path / "out"
    climb(file, out)
    (out / "rungs/1/c000" / name).write_text(text)
    with pytest.raises(ArchlabError, match=message) as caught:
        climb(file, out)
    assert str(caught.value).startswith(f"{out / 'rungs/1/c000' / name}: ")


def read(folder: Path, **keys: Any) -> Ladder:
    return parse_ladder(load_space(write_ladder(folder, **keys)))


def test_a_drawn_candidate_that_cannot_be_built_drops_out(tmp_path: Path) -> None:
    mixers = [{"type": "attention", "num_heads": 4, "position": {"type": "rope", "fraction": 0.3}}, "gla"]
    vary = {"model.layers[*].mixer": mixers}
    study = {"sampler": "random", "trials": 9}
    ladder = read(tmp_path, rungs=RUNGS, candidates={"base": {}}, vary=vary, study=study)
    plan, problems = plan_rung(ladder, ladder.rungs[0], list(all_candidates(ladder)), tmp_path / "out")
    values = {candidate.name: candidate.values.get("model.layers[*].mixer") for candidate in all_candidates(ladder)}
    assert [values[name] for name in plan.entrants] == [None, "gla"]
    (name,) = problems
    assert values[name] == mixers[0]
    assert f"{name} at rungs[0]: rope: " in problems[name]
    assert not (tmp_path / "out/rungs/1" / name).exists()


def test_a_rehearsal_that_is_late_leaves_candidates_out_but_two(tmp_path: Path) -> None:
    names = {name: {"train.clip": 1.0 + index} for index, name in enumerate("abcd")}
    ladder = read(tmp_path, candidates=names)
    plan, problems = plan_rung(ladder, ladder.rungs[0], list(ladder.named), tmp_path / "out", lambda: True)
    assert list(plan.entrants) == ["a", "b"]
    assert problems == dict.fromkeys("cd", TOO_LATE)


def test_the_rehearsal_of_a_rehearsal_is_itself(tmp_path: Path) -> None:
    once = as_rehearsal(load_space(write_ladder(tmp_path)))
    assert as_rehearsal(once) is once
    assert once.name == "space-rehearsal"
