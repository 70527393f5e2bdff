"""A search from beginning to end: resumed, grown, pruned, with several objectives."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from search_helpers import search, trials_of, write_space

from archlab import ArchlabError
from archlab.config.experiment import load
from archlab.storage.trained_model import load_trained

EMA = "model.layers[*].mixer.ema"
NO_PRUNING = {"pruner": "none"}


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_decoding_is_measured_only_as_an_objective(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, objectives={"val_loss": "minimize", "decode_us_per_token": "minimize"})
    search(file, tmp_path / "s", trials=1)
    assert trials_of(tmp_path / "s")[0].values[1] > 0
    search(write_space(tmp_path), tmp_path / "t", trials=1)
    assert "decode_us_per_token" not in trials_of(tmp_path / "t")[0].user_attrs["metrics"]


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


def test_a_latency_that_the_base_experiment_does_not_have_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    both_ways = {"model.layers[0].mixer": {"type": "attention", "attention": "bidirectional"}}
    file = write_space(tmp_path, objectives={"decode_us_per_token": "minimize"}, override=both_ways)
    with pytest.raises(ArchlabError, match="decode_us_per_token: this model does not decode tokens one at a time"):
        search(file, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_trials_are_not_compared_by_bits_per_byte_that_would_be_wrong(tmp_path: Path, fake: Any) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n} words\n" for n in range(3000)))
    words = [f"task.path={tmp_path / 'a.txt'}", "task.tokenizer=words", "task.vocab_size=9"]
    with pytest.raises(ArchlabError, match="objectives: val_bpb: bits per byte of this text would be wrong"):
        search(write_space(tmp_path, objectives={"val_bpb": "minimize"}), tmp_path / "s", words)
