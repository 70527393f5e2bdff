"""What a search starts over, and what it deletes: nothing that archlab did not write."""

from pathlib import Path
from typing import Any

import pytest
from search_helpers import search, trials_of, write_space

from archlab import ArchlabError
from archlab.searching.study.study import delete_weights
from archlab.storage.files import atomic_dir
from archlab.storage.manifest import write_manifest

EMA = "model.layers[*].mixer.ema"
NO_PRUNING = {"pruner": "none"}


@pytest.mark.slow
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
