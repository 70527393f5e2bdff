from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from safetensors.torch import load_file

import archlab
from archlab import ArchlabError, ConfigError
from archlab.config.experiment import Experiment, load
from archlab.config.start_from import StartFrom
from archlab.modeling.build import validate
from archlab.storage.files import sha256_of
from archlab.storage.manifest import write_manifest
from archlab.storage.start_point import StartPoint, find_start
from archlab.training import metrics
from archlab.training.callbacks import Callback
from archlab.training.start_from import check_start, settings_of_start
from archlab.training.trainer import train
from archlab.training.wsd import branch_points

SHORT = ("train.steps=4", "train.eval_every=0", "train.checkpoint_every=2", "train.keep_checkpoints=9")


class Interrupt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, record: Any) -> None:
        if record["step"] == self.step:
            raise KeyboardInterrupt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def curve(folder: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in metrics.read(folder) if "loss" in record}


def state(folder: Path) -> Any:
    return json.loads((folder / "state.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "trunk"


@pytest.fixture
def trunk(tiny: Tiny, tmp_path: Path, trained: Path) -> Path:
    """A run of 4 steps with checkpoints of the second and the last, trained once and copied for each test."""
    if not trained.exists():
        train(tiny(*SHORT), trained)
    shutil.copytree(trained, tmp_path / "trunk")
    return tmp_path / "trunk"


def start(trunk: Path, load: str = "weights", **more: Any) -> str:
    return f"train.start_from={json.dumps({'checkpoint': str(trunk), 'load': load, **more})}"


@pytest.mark.slow
def test_a_decay_that_branches_off_is_the_run_that_decayed_from_the_start(tiny: Tiny, tmp_path: Path) -> None:
    wsd = ("train.schedule=wsd", "train.end_lr_ratio=0", "train.decay_fraction=0.25", "train.eval_every=0")
    whole, trunk, branch = (tmp_path / name for name in ("whole", "trunk", "branch"))
    train(tiny(*wsd, "train.steps=8"), whole)
    points = branch_points(tiny(*wsd, "train.steps=16").train, [0.5], trunk)
    assert points.checkpoint_at == (6,)
    trunk_experiment = tiny(*wsd, "train.steps=16", "train.checkpoint_every=1", "train.checkpoint_at=[6]")
    with pytest.raises(KeyboardInterrupt):
        train(trunk_experiment, trunk, callbacks=[Interrupt(11)])
    assert {path.name[-2:] for path in (trunk / "checkpoints").iterdir()} == {"06", "10", "11"}
    overrides = [f"{path}={json.dumps(value)}" for path, value in points.branches[0].overrides.items()]
    branched = tiny(*wsd, "train.steps=16", "train.checkpoint_at=[6]", *overrides)
    with pytest.raises(KeyboardInterrupt):
        train(branched, branch, callbacks=[Interrupt(7)])
    shutil.rmtree(trunk)
    train(branched, branch, resume=True)
    assert curve(branch) == {step: loss for step, loss in curve(whole).items() if step > 6}
    assert same(branch / "final", whole / "final")
    ends = [state(run / "checkpoints/step_00000008") for run in (branch, whole)]
    assert ends[0]["optimizer"] == ends[1]["optimizer"]
    origin = json.loads((branch / "final/provenance.json").read_text())["start_from"]
    assert origin == ends[0]["extra"]["start_from"]
    assert (origin["step"], origin["load"], len(origin["run"]), len(origin["sha256"])) == (6, "everything", 36, 64)
    assert load(branch / "experiment.yaml").train.start_from == branched.train.start_from


@pytest.mark.slow
def test_weights_begin_a_run_of_their_own(tiny: Tiny, trunk: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tuned = tiny("train.steps=1", "train.lr=1e-30", "train.decay=all", start(Path("trunk"), step=2))
    train(tuned, tmp_path / "tuned")
    assert same(tmp_path / "tuned/final", trunk / "checkpoints/step_00000002")
    assert list(curve(tmp_path / "tuned")) == [1]
    recorded = load(tmp_path / "tuned/experiment.yaml").train.start_from
    assert recorded is not None
    assert recorded.checkpoint == str(trunk)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "final", "checkpoints", "checkpoints/step_00000004"])
def test_a_run_its_model_and_its_last_checkpoint_have_the_same_weights(
    place: str, tiny: Tiny, trunk: Path, tmp_path: Path
) -> None:
    train(tiny("train.steps=1", "train.lr=1e-30", start(trunk / place)), tmp_path / "tuned")
    assert same(tmp_path / "tuned/final", trunk / "final")


@pytest.mark.slow
def test_names_load_what_fits_and_tell_the_rest(
    tiny: Tiny, trunk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = ("train.steps=1", "train.lr=1e-30", "model.layers[0].ffn.hidden_dim=48", "model.layers[0].repeat=3")
    with pytest.raises(
        ConfigError, match=r"train\.start_from\.checkpoint: .* does not fit the model: missing .* and"
    ) as e:
        train(tiny(*other, start(trunk)), tmp_path / "tuned")
    assert "different" in str(e.value)
    assert not (tmp_path / "tuned").exists()
    with caplog.at_level(logging.WARNING):
        train(tiny(*other, start(trunk, match="names")), tmp_path / "tuned")
    tuned, old = weights(tmp_path / "tuned/final"), weights(trunk / "final")
    not_loaded = json.loads((tmp_path / "tuned/final/provenance.json").read_text())["start_from"]["not_loaded"]
    assert f"{len(not_loaded['initial'])} of the model keep their initial values" in caplog.text
    assert set(not_loaded) == {"initial"}
    fits = {name for name in old if name in tuned and old[name].shape == tuned[name].shape}
    assert set(not_loaded["initial"]) == tuned.keys() - fits
    assert all(torch.equal(old[name], tuned[name]) for name in fits)


CONTINUED = {"load": "everything", "step": 2}


@pytest.mark.parametrize(
    ("overrides", "what", "message"),
    [
        ([], {"checkpoint": "/no/such"}, r"start_from\.checkpoint: '/no/such' is not a directory"),
        ([], {"at": ".."}, r"start_from\.checkpoint: '.*' holds no checkpoint and no trained model"),
        ([], {"step": 3}, r"start_from\.step: '.*trunk' has no checkpoint of step 3; it has 2, 4"),
        ([], {**CONTINUED, "step": 3}, r"start_from\.step: .* has no checkpoint of step 3; it has 2, 4"),
        ([], {"at": "final", "step": 3}, r"start_from\.step: '.*final' is of step 4 and not 3"),
        ([], {"at": "final", "load": "everything"}, r"start_from\.load: .*final' has no checkpoint with the state"),
        ([], {"load": "everything", "match": "names"}, r"start_from\.match: 'names' goes with load: weights"),
        ([], {"load": "everything"}, r"train\.steps: 4 is not past step 4, from which the run starts"),
        (["train.seed=1"], CONTINUED, r"cannot be continued: train\.seed is 0 there and 1 here"),
        (["train.batch_size=3"], CONTINUED, r"batch_size \* accumulate is 2 there and 3 here"),
        (["model.layers[0].dropout=0"], CONTINUED, r"model\.layers\[0\]\.dropout is 0\.1 there"),
        (["train.checkpoint_at=[2]"], CONTINUED, r"checkpoint_at\[0\]: 2 is not past step 2"),
        (["model.vocab_size=300"], CONTINUED, r"does not fit the model: different "),
        (
            ["model.dim=48", "model.layers=[{mixer: ema}]"],
            {"match": "names"},
            r"'.*trunk' has no tensor that fits the model: missing ",
        ),
    ],
)
def test_what_a_run_cannot_start_from(
    overrides: list[str], what: dict[str, Any], message: str, tiny: Tiny, trunk: Path, tmp_path: Path
) -> None:
    checkpoint = what.get("checkpoint") or str(trunk / what.get("at", ""))
    named = {**{key: value for key, value in what.items() if key != "at"}, "checkpoint": checkpoint}
    with pytest.raises(ConfigError, match=message):
        train(tiny(*SHORT, *overrides, f"train.start_from={json.dumps(named)}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_data_and_other_tokens(tiny: Tiny, trunk: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("Other words. " * 900)
    text = f"task.path={tmp_path / 'other.txt'}"
    longer = (*SHORT, "train.steps=6")
    with pytest.raises(ArchlabError, match="the data have changed since"):
        train(tiny(*longer, text, start(trunk, "everything")), tmp_path / "run")
    train(tiny("train.steps=1", text, start(trunk)), tmp_path / "run")
    words = ("model.vocab_size=256", "task.tokenizer=words", "task.vocab_size=60")
    with pytest.raises(ConfigError, match=r"the tokens of '.*' are bytes, but those of the task are words, sha256"):
        train(tiny("train.steps=1", *words, start(trunk, match="names")), tmp_path / "words")


def test_a_run_is_not_started_over_from_itself(tiny: Tiny, trunk: Path) -> None:
    with pytest.raises(ArchlabError, match=r"trunk: contains the source .*step_00000002"):
        train(tiny(*SHORT, start(trunk, step=2)), trunk, force=True)
    (trunk / "checkpoints/step_00000002/model.safetensors").write_bytes(b"torn")
    with pytest.raises(ArchlabError, match="step_00000002"):
        train(tiny(*SHORT, start(trunk, step=2)), trunk.parent / "run")


def test_automatic_settings_are_those_of_the_run_that_continues(tiny: Tiny, trunk: Path, tmp_path: Path) -> None:
    def settings(load: str) -> Experiment:
        return tiny(*SHORT, "train.steps=5", "train.precision=auto", "train.compile=auto", start(trunk, load))

    assert settings_of_start(settings("everything").train) == {"precision": "float32", "compile": "off"}
    assert settings_of_start(settings("weights").train) == {}


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_a_run_starts_from_an_export(tiny: Tiny, trunk: Path, tmp_path: Path) -> None:
    out = archlab.export(trunk, tmp_path / "out", to=["standalone"])
    train(tiny(*SHORT, start(trunk), "train.steps=1"), tmp_path / "of_run")
    train(tiny(*SHORT, start(out), "train.steps=1"), tmp_path / "of_export")
    assert same(tmp_path / "of_run/final", tmp_path / "of_export/final")
    with pytest.raises(ConfigError, match="has no checkpoint with the state of an optimizer"):
        train(tiny(*SHORT, start(out, "everything")), tmp_path / "all")


@pytest.mark.slow
def test_a_checkpoint_that_was_taken_out_of_its_run_continues(tiny: Tiny, trunk: Path, tmp_path: Path) -> None:
    shutil.copytree(trunk / "checkpoints/step_00000002", tmp_path / "taken/step_00000002")
    train(tiny(*SHORT, start(tmp_path / "taken/step_00000002", "everything")), tmp_path / "run")
    assert curve(tmp_path / "run") == {step: loss for step, loss in curve(trunk).items() if step > 2}
    assert same(tmp_path / "run/final", trunk / "final")


def test_the_trained_model_is_that_of_the_last_step(trunk: Path) -> None:
    shutil.rmtree(trunk / "checkpoints/step_00000004")
    assert find_start(StartFrom(str(trunk), step=4)).folder == trunk / "final"
    with pytest.raises(ConfigError, match=r"start_from\.step: '.*trunk' has no checkpoint of step 3; it has 2$"):
        find_start(StartFrom(str(trunk), step=3))


def test_weights_without_a_manifest_are_no_start(trunk: Path) -> None:
    point = StartPoint(trunk / "final")
    listed = point.origin()["sha256"]
    assert listed == sha256_of(trunk / "final/model.safetensors")
    for damage in (Path.unlink, lambda file: file.write_text("{")):
        damage(trunk / "final/manifest.json")
        with pytest.raises(ArchlabError, match=r"final: has no manifest that lists model\.safetensors$"):
            point.origin()


def test_weights_in_parts_are_known_by_the_checksums_of_all(tmp_path: Path) -> None:
    def sha256(*contents: str) -> str:
        for number, content in enumerate(contents):
            (tmp_path / f"model-part-{number + 1:05d}-of-00002.safetensors").write_text(content)
        (tmp_path / "manifest.json").unlink(missing_ok=True)
        write_manifest(tmp_path)
        return str(StartPoint(tmp_path).origin()["sha256"])

    first = sha256("a", "b")
    assert len(first) == 64
    assert len({first, sha256("a", "c"), sha256("c", "b")}) == 3
    (tmp_path / "optimizer-part-00001-of-00002.safetensors").write_text("moments")
    assert sha256("a", "b") == first


def test_a_tokenizer_that_is_not_there_yet_is_not_compared(tiny: Tiny, trunk: Path, text: Path) -> None:
    mixed = f"sources: [{{path: {text}, weight: 1}}], tokenizer: later.json, vocab_size: 256"
    later = tiny(f"task={{type: mixture, {mixed}}}", start(trunk))
    check_start(later, validate(later))
    with pytest.raises(ArchlabError, match=r"later\.json: no such tokenizer file"):
        train(later, trunk.parent / "run")
