import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from search_helpers import is_free, pretend, replace_training, search, write_space

import archlab.searching.worker
from archlab import ArchlabError, TrainingError
from archlab.config.experiment import Experiment, load
from archlab.searching.failures import failure_reason
from archlab.searching.results.summary import BaselineSummary
from archlab.searching.space.load_space import load_space
from archlab.searching.study.claims import lock_file
from archlab.searching.study.study import MAX_ATTEMPTS, delete_weights, finished_trials, is_interrupted, open_study
from archlab.storage.files import atomic_dir
from archlab.storage.manifest import write_manifest
from archlab.storage.trained_model import load_trained

EMA = "model.layers[*].mixer.ema"
NO_PRUNING = {"pruner": "none"}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(**loss: Callable[[Experiment], float]) -> None:
        replace_training(monkeypatch, pretend(**loss))

    install()
    return install


def trials_of(folder: Path) -> list[FrozenTrial]:
    return open_study(load_space(folder / "search.yaml"), folder).get_trials()


@pytest.mark.slow
def test_a_real_search_from_beginning_to_end(tmp_path: Path) -> None:
    vary = {EMA: ["cema", "none"], "train.lr": [0.01, 0.001]}
    file = write_space(tmp_path, vary=vary, study={"trials": 3, **NO_PRUNING})
    outcome = search(file, tmp_path / "s")
    trials = trials_of(tmp_path / "s")
    losses = [trial.value for trial in trials]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert losses[outcome.best_trial] == min(losses)
    experiment, best = load_trained(tmp_path / "s")
    assert best.tokens.kind == "bytes"
    assert experiment.train.lr == trials[outcome.best_trial].user_attrs["values"]["train.lr"]
    again = load(tmp_path / "s" / "trials" / "0001" / "experiment.yaml")
    assert again.model.to_plain()["layers"][0]["mixer"]["ema"]["type"] == trials[1].user_attrs["values"][EMA]
    kept = {path.parent.parent.name for path in (tmp_path / "s" / "trials").glob("*/final/model.safetensors")}
    assert kept == {f"{outcome.best_trial:04d}"}
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary == asdict(outcome.summary)
    assert summary["best_trial"]["validation"]["tokens"] == summary["validation_bytes"] - 1
    assert summary["baseline"]["validation"]["bpb"] > 0
    assert set(summary["compressors"]) == {"zlib", "bz2", "xz"}


def test_the_same_command_resumes_and_repeats_no_trial(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, study={"trials": 6, **NO_PRUNING})
    search(file, tmp_path / "whole")
    search(file, tmp_path / "parts", trials=2)
    search(file, tmp_path / "parts", trials=4)
    search(file, tmp_path / "parts")
    search(file, tmp_path / "parts")
    whole, parts = ([t.params["train.lr"] for t in trials_of(tmp_path / name)] for name in ("whole", "parts"))
    assert whole == parts
    assert len(set(parts)) == 6


def test_another_search_is_refused_and_force_starts_over(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, study={"trials": 2})
    search(file, tmp_path / "s")
    with pytest.raises(ArchlabError, match=r"holds another search: study.seed is 0 there and 5 here; .* --force"):
        search(file, tmp_path / "s", overrides=["study.seed=5"])
    with pytest.raises(ArchlabError, match=r"train.steps is 4 there and 8 here"):
        search(file, tmp_path / "s", overrides=["train.steps=8"])
    search(file, tmp_path / "s", overrides=["study.seed=5"], trials=1, force=True)
    assert len(trials_of(tmp_path / "s")) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ArchlabError, match="is not empty"):
        search(file, tmp_path / "other")


def test_deleting_weights_takes_neither_links_nor_notes(tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    for name in ("final", "checkpoints/step_00000001"):
        with atomic_dir(run / name) as partial:
            write_manifest(partial)
    precious.mkdir()
    (run / "final").rename(precious / "final")
    (run / "final").symlink_to(precious / "final")
    (run / "checkpoints/notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    delete_weights(run)
    assert sorted(tmp_path.rglob("*")) == before
    (run / "final").unlink()
    (precious / "final").rename(run / "final")
    (run / "checkpoints/notes.txt").unlink()
    delete_weights(run)
    assert list(run.iterdir()) == []


FOREIGN = {
    "notes.txt": "",
    "best/notes.txt": "",
    "trials/0000/notes.txt": "",
    "trials/0000/final/notes.txt": "",
    "trials/mine": "",
    "baseline/.git": "",
    "best": "link",
    "trials": "link",
    "search.yaml": "link",
}


@pytest.mark.slow
def test_force_takes_nothing_that_archlab_did_not_write(tmp_path: Path, fake: Any) -> None:
    file, folder, aside = write_space(tmp_path), tmp_path / "s", tmp_path / "aside"
    search(file, folder, trials=1)
    for name, kind in FOREIGN.items():
        path = folder / name
        if kind == "link":
            path.rename(aside)
            path.symlink_to(aside)
        else:
            path.write_text("mine")
        with pytest.raises(ArchlabError, match=f"s/{name}: (was not written by archlab|is a link)"):
            search(file, folder, trials=1, force=True)
        if kind == "link":
            with pytest.raises(ArchlabError, match=f"s/{name}: is a link"):
                search(file, folder, trials=1)
        path.unlink()
        if kind == "link":
            aside.rename(path)
    assert len(trials_of(folder)) == 1
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "base.yaml").write_text("base: megalodon_tiny\n")
    with pytest.raises(ArchlabError, match=r"base: is not empty and no search: it holds 'base\.yaml'"):
        search(file, tmp_path / "base", trials=1, force=True)


@pytest.mark.slow
def test_choices_may_grow_between_runs_but_not_shrink(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, vary={EMA: ["cema", "ema"]})
    search(file, tmp_path / "s", trials=2)
    search(file, tmp_path / "s", trials=3, overrides=[f"vary.{EMA}=[ema,cema,s4d]"])
    assert len(trials_of(tmp_path / "s")) == 3
    with pytest.raises(ArchlabError, match="holds another search: vary"):
        search(file, tmp_path / "s", overrides=[f"vary.{EMA}=[cema]"])


@pytest.mark.slow
def test_a_search_ends_when_everything_has_been_tried(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, vary={EMA: ["cema", "none"]}, study={"sampler": "brute_force"})
    search(file, tmp_path / "s", trials=9)
    search(file, tmp_path / "s", trials=9)
    assert {trial.user_attrs["values"][EMA] for trial in trials_of(tmp_path / "s")} == {"cema", "none"}
    assert len(trials_of(tmp_path / "s")) == 2
    with pytest.raises(ArchlabError, match="holds another search: vary"):
        search(file, tmp_path / "s", overrides=[f"vary.{EMA}=[cema,none,ema]"])


def test_failures_are_recorded_and_the_search_continues(tmp_path: Path, fake: Any) -> None:
    errors = iter([TrainingError("step 3: the loss is nan"), MemoryError("no room"), RuntimeError("a\nb"), None, None])

    def loss(experiment: Experiment) -> float:
        if (experiment.train.lr != 0.01) and (error := next(errors)) is not None:
            raise error
        return 1.0

    fake(loss=loss)
    outcome = search(write_space(tmp_path, study=NO_PRUNING), tmp_path / "s", trials=5)
    trials = trials_of(tmp_path / "s")
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3 + ["COMPLETE"] * 2
    reasons = [trial.user_attrs["reason"] for trial in trials]
    assert reasons == ["step 3: the loss is nan", "out of memory: no room", "RuntimeError: a", "", ""]
    assert outcome.best_trial == 3
    assert outcome.summary.trials == {"fail": 3, "complete": 2}


@pytest.mark.slow
def test_a_combination_that_cannot_be_built_is_a_failed_trial(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, vary={"model.layers[*].mixer.num_heads": [1, 3]}, study={"sampler": "brute_force"})
    search(file, tmp_path / "s", trials=2)
    states = {t.user_attrs["values"]["model.layers[*].mixer.num_heads"]: t for t in trials_of(tmp_path / "s")}
    assert states[1].state == TrialState.COMPLETE
    assert states[3].state == TrialState.FAIL
    assert "num_heads 3" in states[3].user_attrs["reason"]


@pytest.mark.slow
def test_a_nan_that_training_lets_through_is_a_failure(tmp_path: Path, fake: Any) -> None:
    fake(loss=lambda experiment: 1.0 if experiment.train.lr == 0.01 else float("nan"))
    outcome = search(write_space(tmp_path, study=NO_PRUNING), tmp_path / "s", trials=1)
    assert outcome.best_trial is None
    assert trials_of(tmp_path / "s")[0].user_attrs["reason"].endswith("val_loss is nan and not a finite number")
    assert outcome.summary.best_trial is None


def test_a_trial_that_violates_a_constraint_never_trains_and_the_sampler_knows(tmp_path: Path, fake: Any) -> None:
    widths = [{"type": "swiglu", "hidden_dim": 16}, {"type": "swiglu", "hidden_dim": 4096}]
    file = write_space(
        tmp_path,
        vary={"model.layers[*].ffn": widths},
        constraints=["params <= 5e4", {"at": "tiny.yaml", "require": "memory_per_device <= 1e15"}],
        study={"sampler": "brute_force"},
    )
    outcome = search(file, tmp_path / "s", trials=2)
    by_width = {t.user_attrs["values"]["model.layers[*].ffn"]["hidden_dim"]: t for t in trials_of(tmp_path / "s")}
    infeasible, feasible = by_width[4096], by_width[16]
    assert infeasible.state == TrialState.PRUNED
    assert infeasible.user_attrs["reason"].startswith("params <= 5e4 is violated: params is ")
    assert infeasible.constraints["params <= 5e4"] > 0
    assert feasible.constraints == {k: v for k, v in feasible.constraints.items() if v <= 0}
    assert len(feasible.constraints) == 2
    assert not (tmp_path / "s" / "trials" / f"{infeasible.number:04d}" / "metrics.jsonl").exists()
    assert outcome.best_trial == feasible.number


def test_bad_trials_are_pruned(tmp_path: Path, fake: Any) -> None:
    order = iter([1.0, 1.0, 9.0, 9.0])
    fake(loss=lambda experiment: 1.0 if experiment.train.lr == 0.01 else next(order))
    pruner = {"type": "median", "n_startup_trials": 1}
    search(write_space(tmp_path, study={"pruner": pruner}), tmp_path / "s", trials=4)
    trials = trials_of(tmp_path / "s")
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert "pruned at step 2 of 4" in trials[3].user_attrs["reason"]
    assert list(trials[0].intermediate_values) == [2, 4]


@pytest.mark.slow
def test_several_objectives(tmp_path: Path, fake: Any) -> None:
    objectives = {"val_loss": "minimize", "params": "minimize", "tokens_per_s": "maximize"}
    file = write_space(tmp_path, vary={EMA: ["cema", "none"]}, objectives=objectives, study={"sampler": "nsga2"})
    fake(loss=lambda experiment: 1.0 if "cema" in experiment.to_yaml() else 2.0)
    outcome = search(file, tmp_path / "s", trials=8)
    chosen = {trial.number: trial.user_attrs["values"][EMA] for trial in trials_of(tmp_path / "s")}
    assert chosen[outcome.best_trial] == "cema"
    assert {chosen[number] for number in outcome.summary.pareto} == {"cema", "none"}


def test_decoding_is_measured_only_as_an_objective(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, objectives={"val_loss": "minimize", "decode_us_per_token": "minimize"})
    search(file, tmp_path / "s", trials=1)
    assert trials_of(tmp_path / "s")[0].values[1] > 0
    search(write_space(tmp_path), tmp_path / "t", trials=1)
    assert "decode_us_per_token" not in trials_of(tmp_path / "t")[0].user_attrs["metrics"]


def test_ctrl_c_stops_the_search_and_the_trial_is_retried(tmp_path: Path, fake: Any) -> None:
    calls = []

    def loss(experiment: Experiment) -> float:
        calls.append(experiment.train.lr)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    fake(loss=loss)
    file = write_space(tmp_path, study=NO_PRUNING)
    with pytest.raises(KeyboardInterrupt):
        search(file, tmp_path / "s", trials=3)
    search(file, tmp_path / "s", trials=3)
    trials = trials_of(tmp_path / "s")
    assert [is_interrupted(trial) for trial in trials] == [False, True, False, False]
    assert calls[2] == calls[3] == trials[2].params["train.lr"]
    assert trials[2].user_attrs["retry_of"] == 1


@pytest.mark.slow
def test_a_failing_baseline_does_not_stop_the_search_but_a_mistake_does(tmp_path: Path, fake: Any) -> None:
    def loss(experiment: Experiment) -> float:
        if experiment.train.lr == 0.01:
            raise TrainingError("the loss is nan")
        return 1.0

    fake(loss=loss)
    outcome = search(write_space(tmp_path), tmp_path / "s", trials=1)
    assert outcome.summary.baseline == BaselineSummary(reason="the loss is nan")
    file = write_space(tmp_path, override={"task.path": str(tmp_path / "nowhere")})
    with pytest.raises(ArchlabError, match="nowhere"):
        search(file, tmp_path / "t", trials=1)


@pytest.mark.slow
def test_the_best_is_published_again_after_a_stop_in_between(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, study=NO_PRUNING)
    first = search(file, tmp_path / "s", trials=3)
    provenance = tmp_path / "s" / "best" / "provenance.json"
    stale = json.loads(provenance.read_text()) | {"trial": 99}
    provenance.write_text(json.dumps(stale))
    assert search(file, tmp_path / "s", trials=3).best_trial == first.best_trial
    assert json.loads(provenance.read_text())["trial"] == first.best_trial
    load_trained(tmp_path / "s")


_WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import archlab.searching.trials.train_trial
from search_helpers import pretend, search

done = pretend()

def slow(experiment, folder, **options):
    if folder.name != "baseline":
        (folder / "began").write_text(str(experiment.train.lr))
        time.sleep({seconds})
    return done(experiment, folder, **options)

archlab.searching.trials.train_trial.train = slow
search({file!r}, Path({folder!r}), trials={trials})
"""


def start_worker(file: Path, folder: Path, *, seconds: float, trials: int) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parents[1])
    script = _WORKER.format(tests=tests, file=str(file), folder=str(folder), seconds=seconds, trials=trials)
    return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(ready: Callable[[], bool], worker: subprocess.Popen[bytes]) -> None:
    while not ready():
        assert worker.poll() is None, "the worker ended too early"
        time.sleep(0.02)


@pytest.mark.services
def test_a_killed_worker_s_trial_is_retried_and_a_live_one_s_is_left_alone(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    killed = start_worker(file, folder, seconds=600, trials=3)
    try:
        wait_for((folder / "trials" / "0000" / "began").exists, killed)
        search(file, folder, trials=2)
        assert [trial.state.name for trial in trials_of(folder)] == ["RUNNING", "COMPLETE"]
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    search(file, folder, trials=3)
    trials = trials_of(folder)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[0].user_attrs["reason"] == "interrupted"
    assert trials[2].params == trials[0].params
    assert len(finished_trials(open_study(load_space(folder / "search.yaml"), folder))) == 3


def test_a_trial_that_keeps_killing_its_process_is_given_up(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    search(file, folder, trials=1)
    study = open_study(load_space(file), folder)
    study.enqueue_trial({"train.lr": 0.05})
    for _ in range(MAX_ATTEMPTS):
        trial = study.ask()  # by a worker that dies before it locks the trial
        assert trial.suggest_float("train.lr", 0.001, 0.1, log=True) == 0.05
        archlab.searching.worker.fail_stale_trials(study, folder)
    given_up = [trial for trial in trials_of(folder) if "its process ended" in trial.user_attrs.get("reason", "")]
    assert len(given_up) == 1
    assert not study.get_trials(states=(TrialState.WAITING,))
    assert len(finished_trials(study)) == 2


@pytest.mark.services
def test_two_workers_share_the_trials(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    workers = [start_worker(file, folder, seconds=0.05, trials=8) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    trials = trials_of(folder)
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 8}
    assert len({trial.params["train.lr"] for trial in trials}) == 8


@pytest.mark.services
def test_workers_of_which_one_is_killed_and_replaced_run_each_trial_once(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    workers = [start_worker(file, folder, seconds=0, trials=16) for _ in range(3)]
    wait_for((folder / "trials" / "0003" / "began").exists, workers[-1])  # while the others go on
    workers[0].kill()
    workers.append(start_worker(file, folder, seconds=0, trials=16))
    assert workers.pop(0).wait() == -signal.SIGKILL
    assert [worker.wait() for worker in workers] == [0] * 3
    trials = trials_of(folder)
    ended = [trial for trial in trials if not is_interrupted(trial)]
    assert [trial.state.name for trial in ended] == ["COMPLETE"] * 16
    assert len({trial.params["train.lr"] for trial in ended}) == 16
    retried = Counter(trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs)
    assert set(retried.values()) <= {1}
    best = json.loads((folder / "best" / "provenance.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    assert best["trial"] == summary["best_trial"]["trial"] == min(ended, key=lambda trial: trial.value or 0).number
    assert summary["trials"] == {"complete": 16}


@pytest.mark.slow
def test_force_is_refused_while_another_worker_searches(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path), tmp_path / "s"
    search(file, folder, trials=1)
    with (folder / ".workers.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(ArchlabError, match="another process is searching here"):
            search(file, folder, trials=1, force=True)
    assert len(trials_of(folder)) == 1


@pytest.mark.slow
def test_a_lock_is_held_for_as_long_as_a_trial_runs(tmp_path: Path, fake: Any) -> None:
    free: list[bool] = []

    def loss(experiment: Experiment) -> float:
        if experiment.train.lr != 0.01:
            thread = threading.Thread(target=lambda: free.append(is_free(lock_file(tmp_path / "s", 0))))
            thread.start()
            thread.join()
        return 1.0

    fake(loss=loss)
    search(write_space(tmp_path), tmp_path / "s", trials=1)
    assert free == [False]
    assert is_free(lock_file(tmp_path / "s", 0))


def test_reasons_are_one_line() -> None:
    assert failure_reason(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nmore")).startswith(
        "out of mem"
    )
    assert failure_reason(ValueError("")) == "ValueError"
    assert optuna.__version__ >= "5"


def test_trials_are_not_compared_by_bits_per_byte_that_would_be_wrong(tmp_path: Path, fake: Any) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n} words\n" for n in range(3000)))
    words = [f"task.path={tmp_path / 'a.txt'}", "task.tokenizer=words", "task.vocab_size=9"]
    with pytest.raises(ArchlabError, match="objectives: val_bpb: bits per byte of this text would be wrong"):
        search(write_space(tmp_path, objectives={"val_bpb": "minimize"}), tmp_path / "s", words)
