"""A run's directory: what may be started, resumed or overwritten there, and by whom."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Tiny
from torch import nn

from archlab import ArchlabError
from archlab.storage.checkpoint import save_checkpoint, save_model
from archlab.storage.files import write_text
from archlab.storage.run_identity import read_run_identity, require_model_of
from archlab.storage.run_lock import lock_run
from archlab.training.run_dir import join_identity, open_run, require_own, require_run_dir
from archlab.training.run_start import RunStart


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Path:
    """A finished run with the files that training leaves, of a model that is not the experiment's."""
    folder = tmp_path / "run"
    with lock_run(folder):
        identity = join_identity(folder, open_run(tiny(), folder, False, False), "d1", None)
    model = nn.Linear(2, 2)
    optimizer, extra = torch.optim.AdamW(model.parameters()), {"identity": dict(identity)}
    save_checkpoint(folder / "checkpoints", 3, model, optimizer, extra, keep=2)
    save_model(folder / "final", model, tiny().resolved, extra)
    (folder / "metrics.jsonl").write_text('{"step": 3}\n')
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard/events.out.tfevents.1.host").write_bytes(b"")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_starting_over_leaves_nothing_of_the_earlier_run(run: Path, tiny: Tiny) -> None:
    earlier = read_run_identity(run)
    identity = open_run(tiny("train.lr=0.5"), run, False, True)
    assert {key: identity[key] != earlier[key] for key in ("run", "experiment")} == {"run": True, "experiment": True}
    assert sorted(contents(run)) == [".run.lock", "experiment.yaml", "run.json"]


def test_resuming_keeps_the_identity_and_completes_an_older_run_s(run: Path, tiny: Tiny) -> None:
    earlier, last = read_run_identity(run), run / "checkpoints/step_00000003"
    assert join_identity(run, open_run(tiny(), run, True, False), "d1", last) == earlier
    (run / "run.json").unlink()
    assert join_identity(run, open_run(tiny(), run, True, False), "d1", last) == earlier
    assert read_run_identity(run) == earlier


def test_another_description_is_no_other_run(run: Path, tiny: Tiny) -> None:
    earlier, before = read_run_identity(run), (run / "experiment.yaml").read_bytes()
    resumed = open_run(replace(tiny(), description="The same in other words"), run, True, False)
    assert (resumed["run"], (run / "experiment.yaml").read_bytes()) == (earlier["run"], before)


def _add(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")

    return change


def _link(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).rename(run.parent / "precious")
        (run / name).symlink_to(run.parent / "precious")

    return change


FOREIGN = {
    "notes.txt": _add("notes.txt"),
    ".git": _add(".git/HEAD"),
    "final/notes.txt": _add("final/notes.txt"),
    "checkpoints/step_00000003/pin": _add("checkpoints/step_00000003/pin"),
    "checkpoints/best.pt": _add("checkpoints/best.pt"),
    "tensorboard/mine": _add("tensorboard/mine"),
    "report.html": _add("report.html"),
    "final": _link("final"),
    "checkpoints": _link("checkpoints"),
    "checkpoints/step_00000003": _link("checkpoints/step_00000003"),
    "metrics.jsonl": _link("metrics.jsonl"),
    "experiment.yaml": _link("experiment.yaml"),
    "final/model.safetensors": _link("final/model.safetensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_force_takes_nothing_that_archlab_did_not_write(run: Path, tiny: Tiny, name: str) -> None:
    FOREIGN[name](run)
    before = contents(run.parent)
    with pytest.raises(ArchlabError, match=f"run/{name}: (was not written by archlab|is a link)"):
        open_run(tiny(), run, False, True)
    assert contents(run.parent) == before


@pytest.mark.parametrize("name", ["final", "checkpoints", "metrics.jsonl", "final/notes.txt"])
def test_resuming_does_not_write_through_links_nor_replace_notes(run: Path, tiny: Tiny, name: str) -> None:
    FOREIGN[name](run)
    with pytest.raises(ArchlabError, match=f"run/{name}: "):
        open_run(tiny(), run, True, False)


@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
def test_a_folder_that_is_no_run_is_left_alone(tiny: Tiny, tmp_path: Path, flags: tuple[bool, bool]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/experiment.yaml").write_text("base: megalodon_tiny\n")
    with pytest.raises(ArchlabError, match=r"mine: is not empty and no run: it holds 'experiment\.yaml'"):
        require_run_dir(tiny(), tmp_path / "mine", *flags)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ArchlabError, match="link: is a link that leads nowhere"):
        require_run_dir(tiny(), tmp_path / "link", *flags)
    with pytest.raises(ArchlabError, match=r"tiny\.yaml: is a file"):
        require_run_dir(tiny(), tmp_path / "tiny.yaml", *flags)
    assert sorted(contents(tmp_path / "mine")) == ["experiment.yaml"]


def test_a_linked_run_may_be_resumed_and_not_started_over(run: Path, tiny: Tiny) -> None:
    (run.parent / "link").symlink_to("run")
    open_run(tiny(), run.parent / "link", True, False)
    with pytest.raises(ArchlabError, match=r"link: is a link; to start over its target, name .*run"):
        open_run(tiny(), run.parent / "link", False, True)


def test_what_the_new_run_reads_is_not_deleted(run: Path, tiny: Tiny) -> None:
    with pytest.raises(ArchlabError, match=r"run: contains the source .*final"):
        open_run(tiny(f"task.path={run / 'final'}"), run, False, True)


def test_a_source_of_a_mixture_in_the_run_is_not_deleted(run: Path, tiny: Tiny, text: Path) -> None:
    sources = f"[{{path: {text}, weight: 1, name: a}}, {{path: {run / 'final'}, weight: 1}}]"
    mixed = tiny(f"task={{type: mixture, sources: {sources}}}")
    with pytest.raises(ArchlabError, match=r"run: contains the source .*final"):
        open_run(mixed, run, False, True)
    assert (run / "final").is_dir()


def test_a_process_that_sees_another_directory_is_told(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    def follow(folder: Path) -> RunStart:
        started = RunStart(tiny(), folder, False, False, 2)
        train = tiny("train.lr=0.5").train.to_plain()
        started.follow({"train": train, "identity": {"run": "a"}, "last": str(run)})
        return started

    with pytest.raises(ArchlabError, match=r"other: is not the directory that the first process has opened; all need"):
        follow(tmp_path / "other")
    followed = follow(run)
    assert (followed.experiment.train.lr, followed.identity, followed.last) == (0.5, {"run": "a"}, run)


def test_a_run_of_archlab_0_1_is_known_by_its_experiment(run: Path, tiny: Tiny) -> None:
    (run / "run.json").unlink()
    require_run_dir(tiny(), run, False, True)
    for name in ("checkpoints", "final", "metrics.jsonl"):
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    with pytest.raises(ArchlabError, match="is not empty and no run"):
        require_run_dir(tiny(), run, False, True)


HOLDER = """
import sys, time
from pathlib import Path
from archlab.storage.run_lock import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_until_its_holder_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(ArchlabError, match="run: another process trains here; stop it first"),
            lock_run(tmp_path / "run"),
        ):
            pass
        holder.kill()
    with lock_run(tmp_path / "run"):
        assert os.listdir(tmp_path / "run") == [".run.lock"]


def test_a_folder_with_only_a_lock_is_empty(tmp_path: Path, tiny: Tiny) -> None:
    with lock_run(tmp_path / "run"):
        require_run_dir(tiny(), tmp_path / "run", False, False)


def test_a_checkpoint_of_another_run_is_refused(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    last = run / "checkpoints/step_00000003"
    other = tmp_path / "other"
    theirs = open_run(tiny("train.lr=0.5"), other, False, False)
    with pytest.raises(ArchlabError, match=r"step_00000003: its run is not that of .*other/run\.json"):
        join_identity(other, theirs, "d1", last)


def test_a_model_of_another_run_and_an_edited_experiment_are_refused(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    require_model_of(run, run / "final")
    text = (run / "experiment.yaml").read_text()
    write_text(run / "experiment.yaml", "# a comment\n" + text)
    require_model_of(run, run / "final")
    write_text(run / "experiment.yaml", text.replace("lr: 0.01", "lr: 0.02"))
    with pytest.raises(ArchlabError, match=r"experiment\.yaml: its experiment is not that of .*final .*name its own"):
        require_model_of(run, run / "final")
    with pytest.raises(ArchlabError, match=r"experiment\.yaml: its experiment is not that of .*run\.json"):
        open_run(tiny("train.lr=0.02"), run, True, False)
    open_run(tiny(), tmp_path / "other", False, False)
    with pytest.raises(ArchlabError, match=r"final: its run is not that of .*other/run\.json"):
        require_model_of(tmp_path / "other", run / "final")


def test_a_run_whose_folder_is_taken_over_stops_writing(run: Path, tiny: Tiny) -> None:
    identity = read_run_identity(run)
    require_own(run, identity)
    for content in (json.dumps({"identity": {"run": "another"}}), "{", None):
        (run / "run.json").unlink() if content is None else (run / "run.json").write_text(content)
        with pytest.raises(ArchlabError, match="run: was removed or replaced while this run trained"):
            require_own(run, identity)
