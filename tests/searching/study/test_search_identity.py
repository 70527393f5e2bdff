import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from search_helpers import pretend, replace_costs, replace_training, search, trials_of, write_space

import archlab
from archlab import ArchlabError
from archlab.searching.results import best_trial
from archlab.searching.study import study_storage
from archlab.searching.study.identity import SearchIdentity, read_identity
from archlab.storage.manifest import write_manifest

NO_PRUNING = {"pruner": "none"}


@pytest.fixture(autouse=True, scope="module")
def _fake_training() -> Iterator[None]:
    """Leave out what takes time and has no part in identities."""
    with pytest.MonkeyPatch.context() as patch:
        replace_training(patch, pretend())
        replace_costs(patch)
        patch.setattr(best_trial, "compressed_bpb", lambda _: {})
        yield


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a search space, and two searches of it: one and other."""
    folder = tmp_path_factory.mktemp("searched")
    for name in ("one", "other"):
        search(write_space(folder, study=NO_PRUNING), folder / name, trials=2)
    return folder


@pytest.fixture
def one(searched: Path, tmp_path: Path) -> Path:
    """A copy of the first search."""
    return shutil.copytree(searched / "one", tmp_path / "one")


@pytest.fixture
def file(searched: Path) -> Path:
    """The search space."""
    return searched / "space.yaml"


def in_database(folder: Path, name: str = "shared.db") -> Path:
    """Return a search space whose study is in a database beside its directory."""
    return write_space(folder, study={**NO_PRUNING, "storage": f"sqlite:///{folder / name}"})


def forget(folder: Path) -> None:
    """Make a search one of an earlier version, without a UUID anywhere but in the study."""
    (folder / "identity.json").unlink()
    for path in folder.glob("trials/*/lock"):
        path.write_text("")
    for name, former in {
        "best/provenance.json": ("search_id", "trial_id"),
        "summary.json": ("search_id",),
        "baseline/result.json": ("search",),
    }.items():
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: data[key] for key in data if key not in former}))
    (folder / "best" / "manifest.json").unlink()
    write_manifest(folder / "best")


@pytest.mark.slow
def test_one_uuid_is_in_every_part(one: Path) -> None:
    own = json.loads((one / "identity.json").read_text())["search"]
    best = json.loads((one / "best" / "provenance.json").read_text())
    notes = [json.loads((one / "trials" / f"000{number}" / "lock").read_text()) for number in range(2)]
    parts = (best["search_id"], json.loads((one / "summary.json").read_text())["search_id"])
    baseline = json.loads((one / "baseline" / "result.json").read_text())["search"]
    assert len(own) == 32
    assert {baseline, *parts, *(note["search"] for note in notes)} == {own}
    assert [trial.user_attrs["id"] for trial in trials_of(one)] == [note["trial"] for note in notes]
    assert best["trial_id"] == notes[best["trial"]]["trial"] != notes[1 - best["trial"]]["trial"]


@pytest.mark.slow
def test_a_directory_may_have_any_name(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run?lr=1 {x}%20#~"  # a URL pasted from this path leads elsewhere
    search(file, folder, trials=1)
    assert len(trials_of(folder)) == 1
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
def test_trials_of_a_deleted_study_are_put_aside(one: Path, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (one / "best" / "provenance.json").read_text()
    (one / "study.db").unlink()
    with pytest.raises(ArchlabError, match=r"study.db: is missing"):
        archlab.report(one)
    assert not (one / "study.db").exists()
    with caplog.at_level(logging.WARNING):
        search(file, one, trials=1)
    assert "study.db: is missing; its trials were moved to" in caplog.text
    assert (one / "put_aside" / "1" / "best" / "provenance.json").read_text() == before
    best = json.loads((one / "best" / "provenance.json").read_text())
    assert (best["trial"], best["trial_id"]) == (0, trials_of(one)[0].user_attrs["id"])
    assert [path.name for path in (one / "trials").iterdir()] == ["0000"]


@pytest.mark.slow
def test_a_best_model_of_another_trial_of_the_number_is_refused(one: Path, file: Path) -> None:
    provenance = one / "best" / "provenance.json"
    stored = json.loads(provenance.read_text())
    provenance.write_text(json.dumps(stored | {"values": {"train.lr": 0.5}}))
    (one / "best" / "manifest.json").unlink()
    write_manifest(one / "best")
    with pytest.raises(
        ArchlabError, match=rf"best: is of another trial {stored['trial']} than the study's: values.*lr"
    ):
        search(file, one, trials=3)


@pytest.mark.parametrize("part", ["study.db", "summary.json", "baseline/result.json", "trials/0000/lock", "best"])
def test_a_part_of_another_search_is_refused_by_name(part: str, one: Path, searched: Path, file: Path) -> None:
    if part == "best":
        shutil.rmtree(one / part)
        shutil.copytree(searched / "other" / part, one / part)
    else:
        shutil.copy(searched / "other" / part, one / part)
    name = part.removesuffix("/result.json").removesuffix("/lock")
    refusal = rf"/one/{name}: .*(another search|is not of trial 0 of the study)"
    if part in ("study.db", "summary.json", "trials/0000/lock"):
        with pytest.raises(ArchlabError, match=refusal):
            archlab.report(one)
    if part in ("study.db", "baseline/result.json", "best"):
        with pytest.raises(ArchlabError, match=refusal):
            search(file, one, trials=3)


def test_a_changed_base_or_space_is_named(one: Path, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"holds another search: train.steps is 4 there and 6 here"):
        search(file, one, ["train.steps=6"], trials=3)
    with pytest.raises(ArchlabError, match=r"holds another search: objectives.val_loss is 'minimize' there"):
        search(file, one, ["objectives.params=minimize"], trials=3)
    base = one / "base.yaml"
    base.write_text(base.read_text().replace("steps: 4", "steps: 6"))
    with pytest.raises(ArchlabError, match=r"one/base.yaml: has been changed since the search began, and so has"):
        search(file, one, ["train.steps=6"], trials=3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"study": None}, "a value is missing or of another type"),
        ({"data": []}, "a value is missing or of another type"),
        ({"search": ""}, "a value is missing or of another type"),
        ({"surch": "x"}, "unexpected keyword argument 'surch'"),
    ],
)
def test_an_identity_has_all_its_values(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    whole = {"search": "a", "study": "search", "format": 2, "base": "b", "space": "c", "data": {}}
    (tmp_path / "identity.json").write_text(json.dumps(whole))
    assert read_identity(tmp_path) == SearchIdentity(**whole)  # type: ignore[arg-type]
    (tmp_path / "identity.json").write_text(json.dumps(whole | change))
    with pytest.raises(ArchlabError, match=rf"identity.json: is not the identity of a search: .*{problem}"):
        read_identity(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE study_directions SET direction = 'MAXIMIZE'",
            "the study search has other objectives than .*search.yaml",
        ),
        (
            "DELETE FROM study_user_attributes WHERE key = 'search'",
            "the study search is of another search, of an earlier",
        ),
        ("UPDATE alembic_version SET version_num = 'v9.9.9'", "cannot be used: "),
    ],
)
def test_a_study_that_does_not_fit_is_named(one: Path, file: Path, statement: str, problem: str) -> None:
    with sqlite3.connect(one / "study.db") as database:
        database.execute(statement)
    for use in (archlab.report, lambda folder: search(file, folder, trials=3)):
        with pytest.raises(ArchlabError, match=rf"one/study.db: {problem}") as caught:
            use(one)
        assert "\n" not in str(caught.value)


def test_a_search_of_a_former_format_may_have_former_names(one: Path, file: Path) -> None:
    for name in ("base.yaml", "search.yaml"):
        stored = (one / name).read_text()
        (one / name).write_text("".join(line for line in stored.splitlines(True) if not line.startswith("format:")))
    refusal = (
        r"study.seed is 0 there and 5 here; run archlab migrate \S+one if that is only a former name; else name another"
    )
    with pytest.raises(ArchlabError, match=refusal):
        search(file, one, ["study.seed=5"], trials=3)


def test_a_link_is_not_started_over(one: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(one)
    with pytest.raises(ArchlabError, match=rf"link: is a link; to start over its target, name {one}"):
        search(file, tmp_path / "link", trials=1, force=True)
    assert (one / "search.yaml").is_file()


@pytest.mark.slow
def test_a_search_whose_study_is_gone_is_started_over(tmp_path: Path) -> None:
    file, folder = in_database(tmp_path), tmp_path / "s"
    search(file, folder, trials=2)
    (tmp_path / "shared.db").unlink()
    search(file, folder, trials=1, force=True)
    assert len(trials_of(folder)) == 1


def test_changed_data_are_named(one: Path, file: Path) -> None:
    stored = json.loads((one / "identity.json").read_text())
    stored["data"]["bytes"]["train"] += 7
    (one / "identity.json").write_text(json.dumps(stored))
    with pytest.raises(ArchlabError, match=r"one: its data have changed since the search began: bytes.train is"):
        search(file, one, trials=3)
    del stored["data"]["bytes"]  # described by a later version alone
    (one / "identity.json").write_text(json.dumps(stored))
    search(file, one, trials=2)


def test_data_may_be_elsewhere_and_the_same(one: Path, file: Path) -> None:
    stored = json.loads((one / "identity.json").read_text())
    stored["data"] |= {"source": "another/disk", "python": "3.11.0"}
    (one / "identity.json").write_text(json.dumps(stored))
    search(file, one, trials=2)


@pytest.mark.slow
def test_a_directory_begun_anew_does_not_find_the_study_of_the_former_one(tmp_path: Path) -> None:
    file, folder = in_database(tmp_path), tmp_path / "s"
    search(file, folder, trials=2)
    shutil.move(folder, tmp_path / "moved")
    search(file, folder, trials=1)
    assert [len(trials_of(place)) for place in (folder, tmp_path / "moved")] == [1, 2]
    search(file, folder, trials=1, force=True)
    assert len(optuna.get_all_study_names(f"sqlite:///{tmp_path / 'shared.db'}")) == 2


@pytest.mark.slow
def test_a_study_that_a_database_lost_is_named_and_nothing_begins_again(tmp_path: Path) -> None:
    file, folder = in_database(tmp_path), tmp_path / "s"
    search(file, folder, trials=1)
    (tmp_path / "shared.db").rename(tmp_path / "elsewhere.db")
    with pytest.raises(ArchlabError, match=r"shared.db: has no study of this search; bring it back, or start over"):
        search(file, folder, trials=2)
    search(in_database(tmp_path, "elsewhere.db"), folder, trials=2)  # the database has moved
    assert len(trials_of(folder)) == 2
    with pytest.raises(ArchlabError, match=r"study.storage is '.*elsewhere.db' there and None here"):
        search(write_space(tmp_path, study=NO_PRUNING), folder, trials=3)


@pytest.mark.slow
def test_a_search_of_an_earlier_version_continues(one: Path, file: Path) -> None:
    forget(one)
    archlab.report(one)
    assert not (one / "identity.json").exists()
    search(file, one, trials=3)
    assert len(trials_of(one)) == 3
    assert (one / "identity.json").is_file()


@pytest.mark.slow
def test_an_earlier_version_s_study_in_a_database_is_found_by_its_path_unless_it_is_another_s(tmp_path: Path) -> None:
    file, folder = in_database(tmp_path), tmp_path / "s"
    search(file, folder, trials=2)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    (name,) = optuna.get_all_study_names(url)
    former = study_storage._former_name(folder, url)
    optuna.copy_study(from_study_name=name, from_storage=url, to_storage=url, to_study_name=former)
    study = optuna.load_study(study_name=former, storage=url)
    study.set_user_attr("search", "")
    optuna.delete_study(study_name=name, storage=url)
    forget(folder)
    search(file, folder, trials=3)
    assert [trial.number for trial in trials_of(folder)] == [0, 1, 2]

    (folder / "identity.json").unlink()  # as on another host, where the same path holds other trials
    study.set_user_attr("search", "")
    shutil.rmtree(folder / "trials")
    with pytest.raises(ArchlabError, match="holds another search: its trial 0 is not in"):
        search(file, folder, trials=4)


@pytest.mark.slow
def test_force_removes_what_the_search_wrote_and_follows_no_link(one: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    shutil.rmtree(one / "best")
    (one / "best").symlink_to(tmp_path / "mine")
    with pytest.raises(ArchlabError, match="best: was not written by archlab"):
        search(file, one, trials=1, force=True)
    (one / "best").unlink()
    search(file, one, trials=1, force=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    assert (one / "best").is_dir()


@pytest.mark.slow
def test_parts_of_an_unknown_search_are_not_taken_over(one: Path, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    (folder / "trials" / "0000").mkdir(parents=True)
    for force in (False, True):
        with pytest.raises(ArchlabError, match=r"is not empty|trials: belongs to no search"):
            search(file, folder, trials=1, force=force)
    assert (folder / "trials" / "0000").is_dir()
    (one / "search.yaml").unlink()
    search(file, one, trials=1, force=True)
    assert len(trials_of(one)) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"search": 3}', "null", "\x00"])
def test_a_damaged_identity_is_named(text: str, one: Path, file: Path) -> None:
    (one / "identity.json").write_text(text)
    with pytest.raises(ArchlabError, match=r"identity.json: "):
        search(file, one, trials=1)
