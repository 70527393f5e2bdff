"""A run is not resumed on other data than it began with."""

from pathlib import Path

import pytest
from conftest import Tiny

from archlab import ArchlabError
from archlab.components.task.text import Text
from archlab.training.data_identity import data_identity, require_same_data
from archlab.training.trainer import train


def identity(folder: Path, text: str) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(text)
    return data_identity(Text(path=str(folder)))


def test_what_has_changed_is_named(tmp_path: Path) -> None:
    first = identity(tmp_path / "a", "some text " * 100)
    require_same_data(first, identity(tmp_path / "moved", "some text " * 100), "here")
    require_same_data({}, first, "a run of an earlier version")
    with pytest.raises(
        ArchlabError, match=r"^here: the data have changed since: sha256 \w{12}\.\.\. -> \w{12}\.\.\.; "
    ):
        require_same_data(first, identity(tmp_path / "a", "some tent " * 100), "here")
    with pytest.raises(
        ArchlabError, match=r"bytes_available\.train 900 -> 910, .*; restore them, or start a new run in another"
    ):
        require_same_data(first, identity(tmp_path / "a", "some text " * 101), "here")


def test_a_checkpoint_that_holds_no_data_is_named() -> None:
    with pytest.raises(ArchlabError, match=r"^here: not the data of a checkpoint: \[1\]$"):
        require_same_data([1], {}, "here")  # type: ignore[arg-type]


def test_a_description_is_compared_as_a_checkpoint_holds_it() -> None:
    class Described(Text):
        def describe(self) -> dict[str, object]:
            return {"source": "x", "samples": {1: (2, 3)}}

    assert data_identity(Described(path="x")) == {"samples.1": [2, 3]}


@pytest.mark.slow
def test_a_run_is_not_resumed_on_another_text(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("a text that is learned " * 100)
    settings = (f"task.path={file}", "train.steps=2", "train.eval_every=0", "train.checkpoint_every=1")
    train(tiny(*settings), tmp_path / "run")
    train(tiny(*settings), tmp_path / "run", resume=True)
    identity = (tmp_path / "run/run.json").read_bytes()
    file.write_text("a text that is yearned " * 100)
    with pytest.raises(ArchlabError, match=r"step_00000002: the data have changed since: sha256"):
        train(tiny(*settings), tmp_path / "run", resume=True)
    assert (tmp_path / "run/run.json").read_bytes() == identity  # or the trained model would be another run's
