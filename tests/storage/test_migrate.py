"""Directories as an earlier version wrote them are made by undoing a table of renames."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import Tiny
from safetensors.torch import load_file, save_file
from search_helpers import write_space

import archlab
from archlab import ArchlabError
from archlab.config import renames
from archlab.config.yaml_files import load_yaml
from archlab.searching.space.load_space import load_space
from archlab.searching.study.search_dir import open_search
from archlab.storage.checkpoint import verify
from archlab.storage.identity import content_hash
from archlab.storage.locks import lock
from archlab.storage.manifest import write_manifest
from archlab.storage.migrate import migrate
from archlab.storage.trained_model import load_trained
from archlab.training.trainer import train

SMALL = ("train.steps=6", "train.checkpoint_every=3")


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose component `mlp` was called `perceptron`, and whose tensors had other names."""
    train(tiny(*SMALL), tmp_path / "run")
    present = content_hash(load_yaml(tmp_path / "run/experiment.yaml"))
    for file in (tmp_path / "run").rglob("experiment.yaml"):
        _age_yaml(file)
    aged = content_hash(load_yaml(tmp_path / "run/experiment.yaml"))
    for file in [file for name in ("run.json", "provenance.json") for file in (tmp_path / "run").rglob(name)]:
        file.write_text(file.read_text().replace(present, aged))
    for file in (tmp_path / "run").rglob("*.safetensors"):
        save_file({_age(name): tensor for name, tensor in load_file(file).items()}, file)
    for file in (tmp_path / "run").rglob("state.json"):
        state = json.loads(file.read_text())
        for group in state["optimizer"]:
            group["params"] = [_age(name) for name in group["params"]]
        file.write_text(json.dumps(state).replace(present, aged))
    for file in (tmp_path / "run").rglob("manifest.json"):
        file.unlink()
        write_manifest(file.parent)
    parameters = {
        "ffn": {"mlp": {"up": "rise"}},
        "ema": {"ema": {"beta": "weight_in"}},
        "mixer": {"mega": {"ema": "average"}},
    }
    table = replace(
        renames.current(),
        components={"ffn": {"perceptron": "mlp"}},
        knobs={"ffn": {"mlp": {"width": "hidden_dim"}}},
        parameters={
            k: {c: {old: new for new, old in names.items()} for c, names in v.items()} for k, v in parameters.items()
        },
    )
    monkeypatch.setattr(renames, "current", lambda: table)
    return tmp_path / "run"


def _age(name: str) -> str:
    return (
        name.replace("ffn.up", "ffn.rise")
        .replace("mixer.ema.beta", "mixer.average.weight_in")
        .replace("mixer.ema.", "mixer.average.")
    )


def _age_yaml(file: Path) -> None:
    tree = yaml.safe_load(file.read_text())
    del tree["format"]
    ffn = tree["model"]["layers"][0]["ffn"]
    ffn["type"], ffn["width"] = "perceptron", ffn.pop("hidden_dim")
    file.write_text(yaml.safe_dump(tree, sort_keys=False))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_run_is_refused_until_it_is_migrated_and_then_continues(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"ffn 'perceptron' is now called 'mlp' \(`archlab migrate`"):
        archlab.load_model(run)
    before = contents(run)
    changes = migrate(run)
    assert "experiment.yaml: format 1 -> 2" in changes
    assert "final/experiment.yaml: model.layers[0].ffn: perceptron -> mlp" in changes
    assert "final/experiment.yaml: model.layers[0].ffn.width -> hidden_dim" in changes
    assert sum("model.safetensors: " in change for change in changes) == 3
    for folder in (run / "final", *(run / "checkpoints").iterdir()):
        verify(folder)
    assert contents(run)["metrics.jsonl"] == before["metrics.jsonl"]
    after = contents(run)
    assert migrate(run) == []
    assert contents(run) == after
    fresh = train(tiny(*SMALL), tmp_path / "fresh")
    for name, tensor in load_trained(run)[1].state_dict().items():
        assert (tensor == archlab.load_model(fresh.folder).state_dict()[name]).all()
    resumed = train(tiny(*SMALL), run, resume=True)
    assert resumed.metrics["step"] == 6


@pytest.mark.slow
def test_a_run_interrupted_between_checkpoints_resumes_after_migration(run: Path, tiny: Tiny) -> None:
    migrate(run)
    final = {name: tensor.clone() for name, tensor in archlab.load_model(run).state_dict().items()}
    (run / "checkpoints/step_00000006/state.json").unlink()  # damaged: the run resumes from step 3
    train(tiny(*SMALL), run, resume=True)
    assert all((tensor == final[name]).all() for name, tensor in archlab.load_model(run).state_dict().items())


@pytest.mark.slow
def test_a_checkpoint_whose_tensors_have_former_names_names_the_command(run: Path) -> None:
    names = renames.current()
    tree = yaml.safe_load((run / "final/experiment.yaml").read_text())
    ffn = tree["model"]["layers"][0]["ffn"]
    ffn["type"], ffn["hidden_dim"] = "mlp", ffn.pop("width")
    (run / "final/experiment.yaml").write_text(yaml.safe_dump(tree))
    (run / "final/manifest.json").unlink()
    write_manifest(run / "final")
    with pytest.raises(ArchlabError, match=f"names of an earlier version; run archlab migrate {run}$"):
        archlab.load_model(run)
    assert names.parameters


@pytest.mark.slow
def test_damage_is_refused_and_nothing_changes(run: Path) -> None:
    with (run / "final/model.safetensors").open("ab") as file:
        file.write(b"x")
    before = contents(run)
    with pytest.raises(ArchlabError, match=r"final: model\.safetensors has "):
        migrate(run)
    assert contents(run) == before
    assert [path.name for path in run.parent.iterdir() if "archlab-" in path.name] == []


@pytest.mark.slow
def test_what_fails_half_way_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(run)
    monkeypatch.setattr("archlab.storage.migrate.write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        migrate(run)
    assert contents(run) == before


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match="holds no run, search or checkpoint"):
        migrate(tmp_path)
    with pytest.raises(ArchlabError, match="nowhere: is not a directory"):
        migrate(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_search_in_use_is_refused(run: Path) -> None:
    (run / "search.yaml").write_text("base: base.yaml\n")
    with lock(run / ".workers.lock", wait=True, shared=True), pytest.raises(ArchlabError, match="stop it first"):
        migrate(run)


@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_run_stays_as_it_was(run: Path, tiny: Tiny) -> None:
    damaged = run / "checkpoints/step_00000003"
    with (damaged / "optimizer.safetensors").open("ab") as file:
        file.write(b"x")
    before = contents(damaged)
    assert sum("model.safetensors: " in change for change in migrate(run)) == 2
    assert contents(damaged) == before
    assert train(tiny(*SMALL), run, resume=True).metrics["step"] == 6


@pytest.mark.slow
def test_files_are_copied_where_there_are_no_links(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "Operation not permitted")))
    metrics = (run / "metrics.jsonl").read_bytes()
    assert migrate(run)
    assert (run / "metrics.jsonl").read_bytes() == metrics
    verify(run / "final")
    load_trained(run)


@pytest.mark.slow
def test_a_link_is_not_written_through(run: Path) -> None:
    (run / "experiment.yaml").rename(run.parent / "common.yaml")
    (run / "experiment.yaml").symlink_to("../common.yaml")
    before, shared = contents(run), (run.parent / "common.yaml").read_text()
    with pytest.raises(ArchlabError, match=r"run/experiment\.yaml: is a link, which is not followed to be rewritten"):
        migrate(run)
    assert contents(run) == before
    assert (run.parent / "common.yaml").read_text() == shared


@pytest.fixture
def aged_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a search that has begun, when `swiglu` was called `gated`."""
    with open_search(load_space(write_space(tmp_path)), tmp_path / "search", force=False):
        pass
    table = replace(renames.current(), components={"ffn": {"gated": "swiglu"}}, knobs={}, parameters={})
    monkeypatch.setattr(renames, "current", lambda: table)
    for name in ("base.yaml", "search.yaml"):
        file = tmp_path / "search" / name
        file.write_text(file.read_text().replace("format: 2\n", "").replace("type: swiglu", "type: gated"))
    identity = tmp_path / "search/identity.json"
    identity.write_text(identity.read_text().replace('"format": 2', '"format": 1'))
    return tmp_path / "search"


def test_a_search_is_resumed_by_the_same_command_once_it_is_migrated(aged_search: Path) -> None:
    space = load_space(aged_search.parent / "space.yaml")
    with (
        pytest.raises(ArchlabError, match=r"'gated' there and 'swiglu' here; run archlab migrate .*search if that"),
        open_search(space, aged_search, force=False),
    ):
        pass
    assert migrate(aged_search) == [
        "base.yaml: format 1 -> 2",
        "base.yaml: model.layers[0].ffn: gated -> swiglu",
        "search.yaml: format 1 -> 2",
    ]
    with open_search(space, aged_search, force=False):
        pass
    assert migrate(aged_search) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("base.yaml", "model: [", r"base\.yaml: line 1, column 9: "),
        ("base.yaml", None, r"base\.yaml: cannot be read: No such file or directory$"),
        ("base.yaml", "{task: text, model: stak}", r"base\.yaml: model: no backbone 'stak'; did you mean 'stack'\?$"),
        ("base.yaml", "format: 99", r"base\.yaml: format: 99 is of a later archlab; this one reads formats up to 2$"),
        ("base.yaml", "plugins: 3", r"base\.yaml: plugins: 3 is not a list"),
        ("search.yaml", "vary: [", r"search\.yaml: line 1, column 8: "),
        ("search.yaml", "format: 99", r"search\.yaml: format: 99 is of a later archlab"),
        ("search.yaml", "vary: [train.lr]", r"search\.yaml: vary: \['train\.lr'\] is not a mapping$"),
        ("search.yaml", "vary: {m: {a: [x, {type: gated}]}}", r"search\.yaml: vary\.m: 'gated' has another name now"),
    ],
)
def test_a_damaged_file_of_a_search_is_named(aged_search: Path, name: str, text: str | None, problem: str) -> None:
    (aged_search / name).unlink() if text is None else (aged_search / name).write_text(text)
    before = contents(aged_search)
    with pytest.raises(ArchlabError, match=f"^{aged_search}/{problem}") as caught:
        migrate(aged_search)
    assert "\n" not in str(caught.value)
    assert contents(aged_search) == before
