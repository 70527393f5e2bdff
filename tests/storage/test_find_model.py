"""The directories that archlab writes: each leads to its model and its report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Tiny

import archlab
from archlab import ArchlabError
from archlab.storage.find_model import experiment_file, is_export, owner_of, why_no_model
from archlab.storage.manifest import write_manifest
from archlab.storage.trained_model import find_model, load_trained
from archlab.training.trainer import train


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with the files of a run."""
    run = tmp_path / "a/run"
    touch(run / "run.json", *(place / "experiment.yaml" for place in (run, run / "final")))
    touch(*(run / "checkpoints/step_00000001" / name for name in ("model.safetensors", "state.json")))
    return run


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_a_checkpoint_of_a_run_is_a_model(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny("train.steps=2", "train.checkpoint_every=1", "train.keep_checkpoints=2"), run)
    step = run / "checkpoints/step_00000001"
    assert find_model(step) == (step, run)
    _, model = load_trained(step)
    _, last = load_trained(run / "checkpoints/step_00000002")
    _, final = load_trained(run)
    one, two, three = (torch.cat([p.flatten() for p in m.parameters()]) for m in (model, last, final))
    assert not torch.equal(one, two)
    assert torch.equal(two, three)
    assert (archlab.export(step, tmp_path / "export", to=["standalone"]) / "modeling_tiny.py").is_file()
    assert "is an export, which runs without archlab: python " in why_no_model(tmp_path / "export")


def test_a_checkpoint_of_another_run_is_refused(run: Path) -> None:
    step = run / "checkpoints/step_00000001"
    (run / "run.json").write_text('{"identity": {"run": "1"}}')
    (step / "state.json").write_text('{"step": 1, "extra": {"identity": {"run": "2"}}, "optimizer": []}')
    with pytest.raises(ArchlabError, match="its run is not that of"):
        find_model(step)


def test_parts_belong_to_their_run_or_search(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("final", "checkpoints", "checkpoints/step_00000001", ""):
        assert owner_of(run / part) == run
    assert owner_of(tmp_path / "nowhere") == tmp_path / "nowhere"
    touch(tmp_path / "search.yaml", tmp_path / "best/x", tmp_path / "rungs/x")
    assert owner_of(tmp_path / "best") == owner_of(tmp_path / "rungs") == tmp_path
    touch(tmp_path / "rungs/1/llama/x", tmp_path / "trials/0003/tasks/a/runs/x", tmp_path / "notes/x")
    for part in ("rungs/1", "rungs/1/llama", "trials/0003", "trials/0003/tasks/a/runs"):
        assert owner_of(tmp_path / part) == tmp_path
        assert experiment_file(tmp_path / part) is None  # that of the whole is another one
    touch(tmp_path / "trials/0004/runs/0/x", tmp_path / "trials/0004/run.json")
    assert owner_of(tmp_path / "trials/0004/runs") == tmp_path / "trials/0004"
    assert owner_of(tmp_path / "notes") == tmp_path / "notes"
    monkeypatch.chdir(run / "checkpoints/step_00000001")
    assert owner_of(Path()).resolve() == run.resolve()
    monkeypatch.chdir(run.parent)
    assert owner_of(Path("run/final")).resolve() == run.resolve()


def test_every_directory_has_its_experiment(run: Path, tmp_path: Path) -> None:
    assert experiment_file(run) == run / "experiment.yaml"
    assert experiment_file(run / "checkpoints/step_00000001") == run / "experiment.yaml"
    assert experiment_file(run / "final") == run / "final/experiment.yaml"
    touch(tmp_path / "search.yaml", tmp_path / "base.yaml")
    assert experiment_file(tmp_path) == tmp_path / "base.yaml"
    touch(tmp_path / "best/experiment.yaml")
    assert experiment_file(tmp_path) == tmp_path / "best/experiment.yaml"
    assert experiment_file(tmp_path / "nowhere") is None


def test_an_export_is_known_by_its_manifest_and_one_of_archlab_0_1_by_its_files(tmp_path: Path) -> None:
    touch(tmp_path / "new/config.yaml", tmp_path / "new/model.onnx")
    assert not is_export(tmp_path / "new")
    assert experiment_file(tmp_path / "new") is None
    write_manifest(tmp_path / "new", "export")
    touch(*(tmp_path / "old" / name for name in ("config.yaml", "model.py", "model.safetensors")))
    for name, how in (("new", f"; see {tmp_path}/new/README.md"), ("old", f": python {tmp_path}/old/model.py")):
        assert experiment_file(tmp_path / name) == tmp_path / name / "config.yaml"
        assert why_no_model(tmp_path / name) == f"is an export, which runs without archlab{how}"


def test_without_a_model_it_is_said_where_there_is_one(tmp_path: Path) -> None:
    weights, run_files = "model.safetensors", ("run.json", "experiment.yaml")
    search, trial = tmp_path / "search", tmp_path / "search/trials/0003"
    touch(search / "search.yaml", *(trial / name for name in run_files))
    assert why_no_model(search) == "holds no trained model: no trial of the search is complete"
    assert why_no_model(trial).endswith("the run has not ended, or its weights were deleted")
    touch(search / "best" / weights)
    assert why_no_model(trial).endswith(f"; the best model of its search is {search / 'best'}")
    touch(trial / "checkpoints/step_00000007" / weights)
    assert why_no_model(trial).endswith(f"; name one of its models, such as {trial / 'checkpoints/step_00000007'}")
    ladder, candidate = tmp_path / "ladder", tmp_path / "ladder/rungs/2/llama"
    touch(ladder / "search.yaml", candidate / "seed_0/final" / weights)
    for place in (ladder, ladder / "rungs/2", candidate):
        assert why_no_model(place).endswith(f"such as {candidate / 'seed_0'}")
    assert "a ladder has one for each run" in why_no_model(ladder)
    assert why_no_model(search / "search.yaml") == f"is a file; name its directory, {search}"
    assert why_no_model(tmp_path / "nowhere") == "is not a directory"
